"""Likelihood of a Gaussian process's generative flow by the instantaneous change of variables.

ln p(x_{t_min}) = ln p(x_{t_max}) + ∫ tr(∂f/∂x) dt along the probability flow from t_min to t_max.

What is stated is a density of the state at t_min: of data where σ(t_min) = 0, of slightly smoothed data otherwise (VE
and EDM at any t_min). The law at t_max is taken to be N(0, σ(t_max)²).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.datasets.quantisation import LEVELS, dequantise
from isocline.objectives.trace import AbstractTrace, ExactTrace, HutchinsonTrace
from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.grid import AbstractTimeGrid, UniformLogRatioGrid
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable
from isocline.solvers.controller import AbstractController, FixedGrid
from isocline.solvers.explicit import Heun
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem, VectorField
from isocline.solvers.solution import SolverError
from isocline.solvers.stepper import AbstractStepper

__all__ = [
    "BitsPerDim",
    "ExactTrace",
    "HutchinsonTrace",
    "LogDensity",
    "ProbabilityFlowLikelihood",
    "bits_per_dim",
]


class LogDensity(NamedTuple):
    """Log densities.

    Attributes:
        nats: ln p(x), float64 ``(B,)``.
        nfe: network forwards per sample, int64 ``(B,)``; the backward passes of the trace are not counted.
        kind: ``exact`` or ``estimate`` (unbiased, by the trace), both up to the solver's error.
    """

    nats: Tensor
    nfe: Tensor
    kind: str


class BitsPerDim(NamedTuple):
    """Negative log-likelihood of 8-bit images.

    Attributes:
        nats: mean over draws, per image, float64 ``(B,)``.
        bits_per_dim: the same in bits per dimension, ``(B,)``.
        nfe: network forwards per image, over all draws, int64 ``(B,)``.
        draws: nats of every dequantisation draw, ``(K, B)``; their spread is the estimator's.
        kind: ``bound``: in expectation not below −ln P(image), by Jensen's inequality.
        trace: ``exact`` or ``estimate``, how each density was found.
    """

    nats: Tensor
    bits_per_dim: Tensor
    nfe: Tensor
    draws: Tensor
    kind: str = "bound"
    trace: str = "estimate"

    @property
    def variance(self) -> Tensor:
        """Unbiased variance of ``bits_per_dim`` over what was drawn (dequantisation and probes), ``(B,)``.

        Raises:
            ValueError: with one draw, which has no spread.
        """
        if len(self.draws) < 2:
            raise ValueError("draws = 1: a variance needs 2 at least")
        return (self.bits_per_dim / self.nats).square() * self.draws.var(0) / len(self.draws)

    @property
    def importance_nats(self) -> Tensor:
        """−ln of the mean over draws of the density, ``(B,)``: tighter, consistent as K grows, biased upwards.

        Raises:
            ValueError: if the trace was estimated: its noise is unbiased in ln p only, and would raise the mean of p.
        """
        if self.trace != "exact":
            raise ValueError(f"trace = {self.trace}: importance_nats averages densities; use ExactTrace()")
        return math.log(len(self.draws)) - (-self.draws).logsumexp(0)


def _with_divergence(field: VectorField, trace: AbstractTrace, like: Tensor) -> VectorField:
    """Augment a field on y with its divergence, on packed float64 states ``(B, d + 1)``."""

    def packed(s: Tensor, state: Tensor, cond: Any) -> Tensor:
        probe, inner = cond
        with torch.enable_grad():
            y = state[:, :-1].detach().to(like.dtype).reshape(-1, *like.shape[1:]).requires_grad_()
            slope = field(s, y, inner)
            divergence = trace(slope, y, probe)
        return torch.cat([slope.detach().flatten(1).to(torch.float64), divergence.detach()[:, None]], dim=1)

    return packed


class ProbabilityFlowLikelihood:
    """ln p(x) under the flow that a denoiser generates with.

    States are integrated in float64, the network is called in the data's dtype. With the default fixed grid the cost
    is known; pass a controller (``PIDController``) for error control per sample.

    Source: *Neural Ordinary Differential Equations*, Chen et al., 2018, Eq. 8; *Score-Based Generative Modeling
    through SDEs*, Song et al., 2021, App. D.2.

    Args:
        stepper: an explicit method.
        steps: steps of the fixed grid.
        grid: where they lie; equidistant in λ by default, five times as accurate as uniform times on narrow data.
        variable: in which state and time the flow is solved; `LinearPathVariable` by default, where neither end of a
            noise or a velocity prediction is steep.
        trace: how the divergence is found.
        controller: replaces the fixed grid.
    """

    def __init__(
        self,
        stepper: AbstractStepper | None = None,
        steps: int = 32,
        grid: AbstractTimeGrid | None = None,
        variable: AbstractVariable | None = None,
        trace: AbstractTrace | None = None,
        controller: AbstractController | None = None,
    ) -> None:
        self.stepper = Heun() if stepper is None else stepper
        self.steps = steps
        self.grid = UniformLogRatioGrid() if grid is None else grid
        self.variable = LinearPathVariable() if variable is None else variable
        self.trace = HutchinsonTrace() if trace is None else trace
        self.controller = controller

    def log_density(
        self, denoiser: AbstractDenoiser, x: Tensor, generator: torch.Generator | None = None, cond: Any = None
    ) -> LogDensity:
        """Evaluate ln p(x), x taken as the state at t_min.

        Args:
            denoiser: network and process.
            x: ``(B, *event)``.
            generator: source of the trace's probe.
            cond: handed to the network.

        Returns:
            Nats per sample; works inside ``torch.inference_mode`` too, and returns nothing differentiable.

        Raises:
            isocline.solvers.SolverError: if a sample's integration fails.
        """
        with torch.inference_mode(False), torch.no_grad():
            return self._log_density(denoiser, x.detach().clone(), generator, cond)

    def _log_density(
        self, denoiser: AbstractDenoiser, x: Tensor, generator: torch.Generator | None, cond: Any
    ) -> LogDensity:
        process, variable = denoiser.process, self.variable
        positions = self._positions(denoiser)
        first, last = positions[0], positions[-1]
        y = variable.from_state(process, first, x.to(torch.float64)).flatten(1)
        field = _with_divergence(variable.field(denoiser), self.trace, x)
        state = torch.cat([y, torch.zeros_like(y[:, :1])], dim=1)
        cond = (self.trace.probe(x, generator), cond)
        problem = ODEProblem(field, state, float(first), float(last), cond)
        controller = FixedGrid(positions) if self.controller is None else self.controller
        try:
            solution = solve_strict(problem, self.stepper, controller)
        except SolverError as error:
            raise SolverError(
                f"{error} (a likelihood goes from t_min={process.t_min} to t_max={process.t_max}, where a "
                f"{type(process.prediction).__name__} may be infinite: if so, set t_min or t_max a little inside)"
            ) from error
        end, gain = solution.final[:, :-1], solution.final[:, -1]
        # A change of scale x = c y adds d ln c to the volume.
        volume = y.shape[1] * (variable.scale(process, last) / variable.scale(process, first)).log()
        prior = process.prior_log_density(variable.to_state(process, last, end))
        nats = prior + gain + volume.to(gain.device)
        return LogDensity(nats, solution.stats.nfe * denoiser.evaluations, self.trace.kind)

    def _positions(self, denoiser: AbstractDenoiser) -> Tensor:
        """Increasing positions from t_min to t_max."""
        process = denoiser.process
        first = float(self.variable.position(process, process.t_min))
        return self.grid(process, self.variable, self.steps, end=first).flip(0)


def bits_per_dim(
    denoiser: AbstractDenoiser,
    images: Tensor,
    generator: torch.Generator,
    likelihood: ProbabilityFlowLikelihood | None = None,
    draws: int = 1,
    cond: Any = None,
) -> BitsPerDim:
    """Bound the negative log-likelihood of 8-bit images by uniform dequantisation.

    −ln P(image) ≤ E_u[−ln p((image + u)/128 − 1)] + d ln 128, u ~ U[0, 1)^d; the last term, 7 bits per dimension, is
    the volume of a level in the model's scale (see `isocline.datasets.quantisation`).

    Source: *A Note on the Evaluation of Generative Models*, Theis et al., 2016, §3.1.

    Args:
        denoiser: network and process.
        images: uint8 ``(B, C, H, W)``.
        generator: source of u and of the trace's probe, on the images' device.
        likelihood: how densities are found.
        draws: K, dequantisation draws per image, each with its own probe.
        cond: handed to the network.

    Returns:
        Bits per dimension, per image.

    Raises:
        ValueError: if draws < 1.
        TypeError: if the images are not uint8.
        isocline.solvers.SolverError: if an integration fails.
    """
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    if images.dtype != torch.uint8:
        raise TypeError(f"images have dtype {images.dtype}; expected torch.uint8")
    flow = ProbabilityFlowLikelihood() if likelihood is None else likelihood
    dimension = images[0].numel()
    offset = dimension * math.log(LEVELS / 2)
    results = [flow.log_density(denoiser, dequantise(images, generator), generator, cond) for _ in range(draws)]
    nats = torch.stack([offset - result.nats for result in results])
    mean = nats.mean(0)
    nfe = torch.stack([result.nfe for result in results]).sum(0)
    return BitsPerDim(mean, mean / (dimension * math.log(2)), nfe, nats, trace=results[0].kind)
