"""Linear multistep methods in the predicted noise: DEIS and iPNDM, which differ in how they extrapolate it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams
from isocline.samplers.extrapolation import AbstractExtrapolation
from isocline.samplers.noise_step import NoiseEvaluation, transfer
from isocline.samplers.straight_path import AbstractStraightPathSampler
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["NoiseHistory", "NoiseMultistep", "NoiseMultistepSampler"]

_MAX_ORDER = 4


class NoiseHistory(NamedTuple):
    """What a multistep method remembers.

    Attributes:
        steps: steps taken.
        noises: predictions of ε, newest first, each of the state's shape.
    """

    steps: int = 0
    noises: tuple[Tensor, ...] = ()

    def after(self, noise: Tensor, length: int) -> NoiseHistory:
        """One step more; of its predictions and all before, the newest ``length``."""
        return NoiseHistory(self.steps + 1, (noise, *self.noises)[:length])


class NoiseMultistep(AbstractStepper):
    """One evaluation a step; the step goes by the known noises in the given shares (see `extrapolation`)."""

    def __init__(self, positions: Sequence[float], shares: Sequence[Sequence[float]]) -> None:
        """Lay out the steps.

        Args:
            positions: of `LinearPathVariable`; one more than steps.
            shares: of every step, newest first.
        """
        self.positions, self.shares = positions, shares
        self._length = max(map(len, shares))
        self.order = self._length

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> NoiseHistory:
        """Nothing is known yet."""
        return NoiseHistory()

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: NoiseHistory) -> StepResult:
        """Advance by one step; see the base class."""
        s0, s1, shares = self.positions[carry.steps], self.positions[carry.steps + 1], self.shares[carry.steps]
        here = NoiseEvaluation.at(problem, s0, y0)
        known = carry.after(here.noise, self._length)
        others = known.noises[1 : len(shares)]
        return StepResult(transfer(y0, here, s0, s1, others, shares[1:]), carry=known)


class NoiseMultistepSampler(AbstractStraightPathSampler):
    """Adams–Bashforth steps for dy/dρ = ε, ρ = σ/α, y = x/α, with one evaluation each: DEIS, iPNDM.

    The first steps are of the order that the predictions so far allow, 1, 2, …; so is a step from α = 0, where ρ is
    infinite, of order 1. The noise predicted there is x itself.

    Args:
        order: most predictions that a step uses, 1 to 4; 1 is DDIM.
        extrapolation: how they are weighted.
        grid: where the steps lie.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if the order is out of range.

    Source: *Fast Sampling of Diffusion Models with Exponential Integrator*, Zhang & Chen, 2023.
    """

    def __init__(
        self,
        order: int,
        extrapolation: AbstractExtrapolation,
        grid: AbstractTimeGrid,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        if not 1 <= order <= _MAX_ORDER:
            raise ValueError(f"order={order}; expected 1 to {_MAX_ORDER}")
        self.order = order
        self.extrapolation = extrapolation

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return as many steps as evaluations."""
        return calls

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return the method with its weights for the grid."""
        shares, process = [], denoiser.process
        for index in range(len(positions) - 1):
            known = positions[max(0, index + 1 - self.order) : index + 1][::-1]
            from_noise = known[0] == 1  # No other noise is known there.
            shares.append((1.0,) if from_noise else self.extrapolation.shares(process, known, positions[index + 1]))
        return NoiseMultistep(positions, shares)
