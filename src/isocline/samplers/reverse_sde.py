"""Sampling by the reverse SDEs of a process, with any stepper of SDEs, on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.processes.reverse_sde import reverse_diffusion, reverse_drift
from isocline.randomness import Streams, normal
from isocline.samplers.noise_step import AbstractNoiseStep, DDIMStep, NoiseStepper
from isocline.samplers.straight_path import AbstractStraightPathSampler, required, starts_at_noise
from isocline.shapes import expand_like
from isocline.solvers.brownian import AbstractBrownian, BrownianIncrement
from isocline.solvers.problem import AbstractProblem, Calculus, SDEProblem
from isocline.solvers.sde import AbstractSDEStepper
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["ReverseSDESampler", "StreamIncrements", "calculus_of"]


@dataclass(frozen=True)
class StreamIncrements(AbstractBrownian):
    """Fresh increments at every step, each sample's from its own stream where there is one for each.

    Attributes:
        streams: source of every draw.
    """

    streams: Streams

    def step(self, t0: Tensor, t1: Tensor, y: Tensor, memory: Any, area: bool) -> tuple[BrownianIncrement, Any]:
        """``w = √|Δt| n`` and, where wanted, ``h = √(|Δt|/12) n'``."""
        size = expand_like((t1 - t0).abs(), y)
        w = normal(y.shape, self.streams, y) * size.sqrt().to(y.dtype)
        if not area:
            return BrownianIncrement(w), None
        return BrownianIncrement(w, normal(y.shape, self.streams, y) * (size / 12).sqrt().to(y.dtype)), None


def calculus_of(stepper: AbstractSDEStepper) -> Calculus:
    """Return a sense that the stepper takes: both are the same where noise does not depend on the state."""
    return Calculus.ITO if Calculus.ITO in stepper.calculi else Calculus.STRATONOVICH


class ReverseSDESampler(AbstractStraightPathSampler):
    """Steps of dx = [F x − ½ (1 + η²) g² s] dt + η g dw̄ in t on a grid, then a step of the flow to σ = 0.

    g is infinite where α = 0: generation from there begins with a step of the flow (DDIM's) as well. The last step,
    from the grid's last departure, adds no noise, which would be left over. Where a stepper takes several evaluations,
    these two still take one.

    Args:
        stepper: of SDEs: Euler–Maruyama, Stratonovich's Heun (two evaluations), ShARK (two, order 3/2).
        grid: where the steps lie.
        eta: η: 0 is the flow, 1 Anderson's reverse SDE; larger values are allowed.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if η is negative.

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, §3.3 and App. C.
    """

    def __init__(
        self,
        stepper: AbstractSDEStepper,
        grid: AbstractTimeGrid,
        eta: float = 1.0,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta={eta} must be finite and not negative")
        self.method, self.eta = stepper, eta

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return the steps of the SDE that the budget pays for, and one or two of one evaluation."""
        first = int(starts_at_noise(process))
        return first + 1 + (calls - first - 1) // self.method.nfe_per_step

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return the method; see the base class."""
        if len(positions) == 2:
            return NoiseStepper(DDIMStep(), positions)
        streams = required(generator, f"eta={self.eta}") if self.eta > 0 else torch.Generator()
        return NoiseStepper(_ReverseStep(self.method, self.eta, denoiser, StreamIncrements(streams)), positions)


class _ReverseStep(AbstractNoiseStep):
    """A step of the SDE in (t, x) between two positions of `LinearPathVariable`; DDIM's at both ends."""

    def __init__(
        self, stepper: AbstractSDEStepper, eta: float, denoiser: AbstractDenoiser, noise: AbstractBrownian
    ) -> None:
        self.stepper, self.process, self.noise = stepper, denoiser.process, noise
        self.drift, self.diffusion = reverse_drift(denoiser, eta), reverse_diffusion(denoiser.process, eta)

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        if s0 == 1 or s1 == 0:
            return DDIMStep().advance(problem, y0, s0, s1)
        process, variable = self.process, AbstractStraightPathSampler.variable
        s = torch.tensor([s0, s1], dtype=torch.float64, device=y0.device)
        t = variable.time(process, s)
        x0 = variable.to_state(process, s[0], y0)
        sde = SDEProblem(
            self.drift,
            self.diffusion,
            x0,
            t[0],
            t[1],
            problem.cond,
            noise=self.noise,
            calculus=calculus_of(self.stepper),
            is_separable=False,
        )
        result = self.stepper.step(sde, t[0], t[1], x0, self.stepper.init(sde, t[0], x0))
        return StepResult(variable.from_state(process, s[1], result.y1), nfe=result.nfe)
