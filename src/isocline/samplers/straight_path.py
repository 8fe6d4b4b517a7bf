"""Samplers whose stepper is made for one grid, in the state y = (1 − s) x_0 + s ε that every process has."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.processes.probability_flow import LinearPathVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler, affordable
from isocline.samplers.continuous import integrate
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractStraightPathSampler", "required", "starts_at_noise"]


class AbstractStraightPathSampler(AbstractSampler):
    """Steps in `LinearPathVariable` from t_max to data, in at most ``nfe`` network forwards a sample.

    The state is finite from α = 0 to σ = 0, so that one implementation serves every process: a method that works on
    the predicted noise reads ε = y + (1 − s) dy/ds off the slope. Generation ends at σ = 0 exactly; where t_min > 0
    the network is asked at t_min for times below it.

    Args:
        grid: where the steps lie.
        wrap: what is put around the denoiser first (clipping, say).
    """

    grid: AbstractTimeGrid
    variable = LinearPathVariable()

    def __init__(
        self, grid: AbstractTimeGrid, wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None
    ) -> None:
        self.grid = grid
        self.wrap = wrap

    @abstractmethod
    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return how many steps ``calls`` evaluations of the field, at least 1, pay for."""

    @abstractmethod
    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return the method on one grid.

        Args:
            denoiser: what is sampled.
            positions: of `LinearPathVariable`, decreasing to 0; one more than steps.
            calls: evaluations that may be made.
            generator: source of noise.

        Raises:
            ValueError: if noise is to be added and there is no generator.
        """

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate; see the base class.

        Raises:
            ValueError: if the budget does not pay for one evaluation, or noise is to be added without a generator.
        """
        denoiser = denoiser if self.wrap is None else self.wrap(denoiser)
        calls = affordable(nfe, denoiser.evaluations)
        positions = self.grid(denoiser.process, self.variable, self.steps(denoiser.process, calls))
        stepper = self.stepper(denoiser, tuple(positions.tolist()), calls, generator)
        return integrate(denoiser, x1, stepper, self.variable, positions, cond, save_steps)


def required(generator: Streams | None, because: str) -> Streams:
    """Return the generator.

    Args:
        generator: what the sampler was given.
        because: the setting that adds noise.

    Raises:
        ValueError: if there is none.
    """
    if generator is None:
        raise ValueError(f"{because} adds noise between steps; pass generator=torch.Generator()")
    return generator


@functools.lru_cache
def starts_at_noise(process: GaussianProcess) -> bool:
    """Whether nothing of the data is left where generation starts, α = 0: methods that divide by α begin otherwise."""
    return float(process.schedule(process.t_max).alpha) <= 0
