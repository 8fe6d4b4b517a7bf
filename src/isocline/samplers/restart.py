"""Restart sampling: a stretch of the flow is gone down several times, with noise up in between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams, normal
from isocline.samplers.noise_step import AbstractNoiseStep, HeunStep, NoiseStepper, noise_ratio
from isocline.samplers.renoise import add_noise
from isocline.samplers.straight_path import AbstractStraightPathSampler, required
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["RestartSampler", "Restarted"]

# ρ of the grid within the interval, as in EDM's.
_POWER = 7.0


class Restarted(AbstractNoiseStep):
    """A step; where it ends at ``path[-1]``, noise up to ``path[0]`` and steps down along ``path``, ``repeats`` times.

    Args:
        step: the step of the flow.
        path: positions, decreasing.
        repeats: K.
        generator: source of noise.
    """

    def __init__(self, step: AbstractNoiseStep, path: Sequence[float], repeats: int, generator: Streams) -> None:
        self.step, self.path, self.repeats, self.generator = step, path, repeats, generator

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """See the base class."""
        result = self.step.advance(problem, y0, s0, s1)
        if s1 != self.path[-1]:
            return result
        y, nfe = result.y1, result.nfe
        for _ in range(self.repeats):
            y = add_noise(y, s1, self.path[0], normal(y.shape, self.generator, y))
            for first, last in itertools.pairwise(self.path):
                result = self.step.advance(problem, y, first, last)
                y, nfe = result.y1, nfe + result.nfe
        return StepResult(y, nfe=nfe)


class _Plan(NamedTuple):
    """What a budget buys: steps of Heun, restarts, and the steps of each."""

    steps: int
    repeats: int
    inner: int


class RestartSampler(AbstractStraightPathSampler):
    """Heun steps in σ/α; on reaching ``low``, K times noise up to ``high`` and Heun steps down again.

    The interval's lower end is the point of the grid that is nearest to ``low`` (in λ). At most half of the budget goes
    to restarts: one that does not pay for all of them has fewer, or none, and so has one whose few steps leave no point
    of the grid below ``high``. Where all of them cost less than a quarter, their steps grow more, up to that: with the
    budget both kinds of steps become as short as one likes.

    Args:
        grid: where the steps lie, the restarts apart.
        low: σ/α at which a restart begins.
        high: σ/α up to which it goes; not above generation's start.
        repeats: K, number of restarts.
        inner: least steps of each, of two evaluations, on EDM's grid between the two.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if a number is out of range.

    Source: *Restart Sampling for Improving Generative Processes*, Xu et al., 2023, Algorithm 1.
    """

    def __init__(
        self,
        grid: AbstractTimeGrid,
        low: float = 0.06,
        high: float = 0.3,
        repeats: int = 2,
        inner: int = 2,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        if not 0 < low < high or repeats < 0 or inner < 1:
            raise ValueError(
                f"low={low}, high={high}, repeats={repeats}, inner={inner}: expected 0 < low < high, repeats at least "
                "0, inner at least 1"
            )
        self.low, self.high, self.repeats, self.inner = low, high, repeats, inner

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return n with 2n − 1 evaluations besides those of the restarts."""
        return self._plan(process, calls).steps

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return Heun's step with its restarts; see the base class."""
        step: AbstractNoiseStep = HeunStep()
        plan = self._plan(denoiser.process, calls)
        if plan.repeats:
            streams = required(generator, f"repeats={self.repeats}")
            step = Restarted(step, self._path(positions, plan.inner), plan.repeats, streams)
        return NoiseStepper(step, positions)

    def _plan(self, process: GaussianProcess, calls: int) -> _Plan:
        """As many restarts as half of the budget pays for, if the steps that are left reach the interval; else none."""
        for repeats in range(min(self.repeats, calls // (4 * self.inner)), 0, -1):
            inner = max(self.inner, calls // (8 * repeats)) if repeats == self.repeats else self.inner
            steps = (calls - 2 * inner * repeats + 1) // 2
            if self._path(self.grid(process, self.variable, steps).tolist(), inner):
                return _Plan(steps, repeats, inner)
        return _Plan((calls + 1) // 2, 0, 0)

    def _path(self, positions: Sequence[float], inner: int) -> tuple[float, ...]:
        """Positions of a restart, empty where no point of the grid lies below the interval's upper end."""
        top = min(self.high / (1 + self.high), positions[0])
        below = [s for s in positions[1:-1] if s < top]
        if not below:
            return ()
        last = min(below, key=lambda s: abs(math.log(noise_ratio(s) / self.low)))
        first_root, last_root = (noise_ratio(s) ** (1 / _POWER) for s in (top, last))
        ratios = torch.linspace(first_root, last_root, inner + 1, dtype=torch.float64) ** _POWER
        return (top, *(ratios / (1 + ratios)).tolist()[1:-1], last)
