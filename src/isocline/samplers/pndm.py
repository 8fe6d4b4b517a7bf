"""PNDM: linear multistep in the predicted noise after a Runge–Kutta warm-up, both with DDIM's transfer."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.randomness import Streams
from isocline.samplers.extrapolation import EqualSteps
from isocline.samplers.noise_multistep import NoiseHistory
from isocline.samplers.noise_step import NoiseEvaluation, transfer
from isocline.samplers.straight_path import AbstractStraightPathSampler, starts_at_noise
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["PNDMSampler"]

# Evaluations of a warm-up step, and how many such steps there are, for each order of the multistep method.
_WARM_UP = {4: (4, 3), 2: (2, 1), 1: (1, 0)}


class PNDMSampler(AbstractStraightPathSampler):
    """F-PNDM: three steps of four evaluations (pseudo Runge–Kutta), then one each, weights 55, −59, 37, −9 over 24.

    A budget below 24 evaluations buys S-PNDM instead (one step of two evaluations, then weights 3, −1 over 2), one
    below 4 DDIM: a warm-up of more than half of the budget costs more than its order wins. The weights are those of
    equal steps in t, on any grid; a warm-up step's middle is the middle in t. From α = 0, where a step by any noise but
    that predicted there would be infinitely long, a DDIM step comes first.

    Args:
        grid: where the steps lie; equidistant in t in the article.
        wrap: what is put around the denoiser first (clipping, say).

    Source: *Pseudo Numerical Methods for Diffusion Models on Manifolds*, Liu et al., 2022, Algorithm 2 and App. A.
    """

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return the number of steps of the method that the budget buys."""
        stages, number = _WARM_UP[_order(process, calls)]
        return calls - (stages - 1) * number

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return the method; see the base class."""
        process = denoiser.process
        middles = _middles(process, positions)
        order, first = _order(process, calls), int(starts_at_noise(process))
        shares = [
            EqualSteps().shares(process, positions[max(0, index + 1 - order) : index + 1], 0.0)
            for index in range(len(positions) - 1)
        ]
        return _PNDMStepper(positions, middles, shares, range(first, first + _WARM_UP[order][1]))


class _PNDMStepper(AbstractStepper):
    """Steps in ``warm_up`` are pseudo Runge–Kutta steps, the others go by the known noises in the given shares."""

    def __init__(
        self, positions: Sequence[float], middles: Sequence[float], shares: Sequence[Sequence[float]], warm_up: range
    ) -> None:
        self.positions, self.middles, self.shares, self.warm_up = positions, middles, shares, warm_up
        self.length = max(map(len, shares))
        self.order = self.length

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> NoiseHistory:
        return NoiseHistory()

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: NoiseHistory) -> StepResult:
        index, s0, s1 = carry.steps, self.positions[carry.steps], self.positions[carry.steps + 1]
        here = NoiseEvaluation.at(problem, s0, y0)
        known = carry.after(here.noise, self.length)
        if index in self.warm_up:
            others, shares = self._warm_up(problem, y0, here, index)
            return StepResult(transfer(y0, here, s0, s1, others, shares), carry=known, nfe=1 + len(others))
        past = self.shares[index][1:] if index >= self.warm_up.start else ()
        return StepResult(transfer(y0, here, s0, s1, known.noises[1 : 1 + len(past)], past), carry=known)

    def _warm_up(
        self, problem: AbstractProblem, y0: Tensor, here: NoiseEvaluation, index: int
    ) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
        """Further noises of one step by the trapezoidal rule or the classical Runge–Kutta method, and their shares."""
        s0, middle, s1 = self.positions[index], self.middles[index], self.positions[index + 1]

        def noise(s: float, *by: Tensor) -> Tensor:
            return NoiseEvaluation.at(problem, s, transfer(y0, here, s0, s, by, (1.0,) * len(by))).noise

        if self.length == 2:
            return (noise(s1),), (1 / 2,)
        second = noise(middle)
        third = noise(middle, second)
        return (second, third, noise(s1, third)), (1 / 3, 1 / 3, 1 / 6)


@functools.lru_cache
def _middles(process: GaussianProcess, positions: tuple[float, ...]) -> list[float]:
    """Positions of the steps' middles in t."""
    variable = PNDMSampler.variable
    times = variable.time(process, torch.tensor(positions, dtype=torch.float64))
    return variable.position(process, (times[1:] + times[:-1]) / 2).tolist()  # type: ignore[no-any-return]


def _order(process: GaussianProcess, calls: int) -> int:
    """The highest order whose warm-up takes at most half of the budget."""
    left = calls - starts_at_noise(process)
    return next(order for order, (stages, number) in _WARM_UP.items() if left >= 2 * stages * number)
