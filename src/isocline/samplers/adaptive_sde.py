"""Sampling by the reverse SDEs of a process with error control: every image takes the steps that its path needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.reverse_sde import straight_diffusion, straight_drift
from isocline.randomness import Streams
from isocline.samplers.adaptive import PICTURES, finished, limited
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import in_state
from isocline.samplers.reverse_sde import calculus_of
from isocline.samplers.straight_path import required, starts_at_noise
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.controller import PIDController
from isocline.solvers.loop import solve
from isocline.solvers.problem import SDEProblem
from isocline.solvers.sde import AbstractSDEStepper
from isocline.solvers.solution import SaveAt, Solution

__all__ = ["AdaptiveSDESampler"]

_DEPTH = 20


class AdaptiveSDESampler(AbstractSampler):
    """Solve a reverse SDE of the η-family from t_max to data to a tolerance, each sample along its own Brownian path.

    The equation is that of the straight path y = (1 − s) x_0 + s ε in λ = ln((1 − s)/s), where rates and noise are of
    order one everywhere. Both ends of λ may be infinite: the part of the path above s = 1 − ``margin`` and that below
    s = ``margin`` are one step of the flow (DDIM's) each. The last one adds no noise and ends at σ = 0 exactly; what
    they leave out is of the order of the margin squared. A rejected step is tried again along the same path, so that
    control of the step does not change the law; the path is a function of the stream, so that a smaller tolerance
    gives the same image more accurately. Samples that are done leave the batch.

    Args:
        stepper: of SDEs, with an error estimate: ShARK, or Stratonovich's Heun.
        controller: tolerances, of the state y.
        eta: η: 0 is the flow, 1 Anderson's reverse SDE; larger values are allowed.
        margin: distance from both ends of s within which the flow is taken.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if η is negative, or the margin outside (0, 0.1].

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, §3.3 and App. C; for adaptive steps of
    the reverse SDE *Gotta Go Fast When Generating Data with Score-Based Models*, Jolicoeur-Martineau et al., 2021.
    """

    variable = LinearPathVariable()

    def __init__(
        self,
        stepper: AbstractSDEStepper,
        controller: PIDController,
        eta: float = 1.0,
        margin: float = 1e-3,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta={eta} must be finite and not negative")
        if not 0 < margin <= 0.1:
            raise ValueError(f"margin={margin} must be above 0 and at most 0.1")
        self.stepper, self.controller = stepper, controller
        self.eta, self.margin, self.wrap = eta, margin, wrap

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate.

        Args:
            denoiser: network and process, possibly guided.
            x1: unit-variance noise ``(B, *event)``; generation starts from σ(t_max) x1.
            nfe: network forwards that one sample may use at most.
            cond: handed to the network.
            generator: source of the paths; a list holds one generator per sample.
            save_steps: keep 17 states at equal distances of λ and the end, instead of the end alone.

        Returns:
            Solution in x and t: ``ts (K,)``, ``ys (K, B, *event)``; ``stats.nfe`` counts each sample's forwards.

        Raises:
            ValueError: if the budget does not pay for one step, or there is no generator.
            SolverError: if a sample needs more than the budget, or fails.
        """
        denoiser = denoiser if self.wrap is None else self.wrap(denoiser)
        process, slope = denoiser.process, self.variable.field(denoiser)
        first, last = self._span(process)
        leaps = 2 if starts_at_noise(process) else 1
        controller = limited(self.controller, self.stepper, nfe, denoiser.evaluations, leaps)
        y = self.variable.from_state(process, self._at(self.variable.start(process)), process.prior(x1))
        if leaps == 2:
            y = torch.add(y, slope(self._at(1.0), y, cond), alpha=float(first) - 1.0)
        problem = self._problem(denoiser, y, first.logit().neg(), last.logit().neg(), cond, generator)
        times = torch.linspace(problem.t0, problem.t1, PICTURES + 1, dtype=torch.float64) if save_steps else None
        solution = finished(solve(problem, self.stepper, controller, SaveAt(times)), nfe)
        end = torch.add(solution.final, slope(last, solution.final, cond), alpha=-float(last))
        positions = torch.cat([torch.sigmoid(-solution.ts), last.new_zeros(1)])
        kept = slice(None) if save_steps else slice(-1, None)
        whole = dataclasses.replace(
            solution,
            ts=positions[kept],
            ys=torch.cat([solution.ys, end[None]])[kept],
            stats=dataclasses.replace(solution.stats, nfe=solution.stats.nfe + leaps),
            stopped_at=torch.zeros_like(solution.stopped_at),
        )
        return in_state(whole, process, self.variable, denoiser.evaluations)

    @staticmethod
    def _at(position: float) -> Tensor:
        return torch.tensor(position, dtype=torch.float64)

    def _span(self, process: GaussianProcess) -> tuple[Tensor, Tensor]:
        """Where the SDE begins and where it ends, as positions of the straight path."""
        first = min(self.variable.start(process), 1 - self.margin)
        return self._at(first), self.variable.position(process, process.t_min).clamp(min=self.margin)

    def _problem(
        self, denoiser: AbstractDenoiser, y: Tensor, start: Tensor, end: Tensor, cond: Any, generator: Streams | None
    ) -> SDEProblem:
        t0, t1 = float(start), float(end)
        streams = required(generator, f"eta={self.eta}")
        path = VirtualBrownianTree(0, t0, t1, (t1 - t0) * 2.0**-_DEPTH, _keys(streams, len(y)).to(y.device))
        drift, diffusion = straight_drift(denoiser, self.eta), straight_diffusion(self.eta)
        return SDEProblem(drift, diffusion, y, t0, t1, cond, noise=path, calculus=calculus_of(self.stepper))


def _keys(streams: Streams, n: int) -> Tensor:
    """Draw a key for each sample's path, int64 ``(n,)``."""
    if isinstance(streams, torch.Generator):
        return torch.randint(2**62, (n,), generator=streams, device=streams.device)
    if len(streams) != n:
        raise ValueError(f"{len(streams)} generators for {n} samples; pass one, or one per sample")
    return torch.cat([torch.randint(2**62, (1,), generator=one, device=one.device) for one in streams])
