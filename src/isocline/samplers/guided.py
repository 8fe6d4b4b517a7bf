"""A sampler with guidance around every denoiser that it is given, and an exact count of what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.prediction import AbstractPrediction
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.samplers.wrapped_denoiser import AbstractWrappedDenoiser
from isocline.solvers.solution import Solution

__all__ = ["GuidedSampler", "Meter"]


class Meter(AbstractWrappedDenoiser):
    """Counts the network forwards that one sample costs, for solves in which all samples share their times.

    Args:
        denoiser: what is asked.
    """

    def __init__(self, denoiser: AbstractDenoiser) -> None:
        super().__init__(denoiser)
        # A list, so that the copies that are made towards an end add to the same account.
        self._forwards: list[int] = []

    @property
    def spent(self) -> int:
        """Forwards per sample so far."""
        return sum(self._forwards)

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Ask the wrapped denoiser and count."""
        self._forwards.append(int(self.denoiser.forwards(t).max()))
        return self.denoiser.predict(t, x, cond, to)


class GuidedSampler(AbstractSampler):
    """Guide any sampler.

    The budget pays for guided evaluations throughout. ``stats.nfe`` says what was spent: less where guidance is limited
    to an interval. (Under a sampler that finds its own steps per sample it is then an upper bound.)

    Args:
        sampler: draws from the guided denoiser.
        guidance: puts guidance around a denoiser; see `isocline.samplers.guidance`.
    """

    def __init__(self, sampler: AbstractSampler, guidance: Callable[[AbstractDenoiser], AbstractDenoiser]) -> None:
        self.sampler = sampler
        self.guidance = guidance
        self.grid = sampler.grid

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate; see the base class."""
        meter = Meter(self.guidance(denoiser))
        solution = self.sampler.sample(meter, x1, nfe, cond, generator, save_steps)
        if self.grid is None:
            return solution
        spent = torch.full_like(solution.stats.nfe, meter.spent)
        return dataclasses.replace(solution, stats=dataclasses.replace(solution.stats, nfe=spent))

    def on(self, grid: Any) -> Self:
        """The same guidance around the sampler on another grid; see the base class."""
        return type(self)(self.sampler.on(grid), self.guidance)
