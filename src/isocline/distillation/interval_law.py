"""Which interval of a grid a sample is trained on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.objectives.time_sampling import lattice
from isocline.processes.gaussian import GaussianProcess

__all__ = ["AbstractIntervalLaw", "LogNormalIntervals", "StratifiedIntervals", "UniformIntervals"]


class AbstractIntervalLaw(ABC):
    """``law(n, process, times, generator) -> index (n,)``, int64: interval i lies between times[i] and times[i + 1]."""

    @abstractmethod
    def __call__(self, n: int, process: GaussianProcess, times: Tensor, generator: torch.Generator) -> Tensor:
        """Draw n intervals.

        Args:
            n: how many.
            process: gives the schedule.
            times: N + 1 decreasing times, float64.
            generator: source of the draws; the result lies on its device.
        """


class UniformIntervals(AbstractIntervalLaw):
    """Independent, each interval equally likely."""

    def __call__(self, n: int, process: GaussianProcess, times: Tensor, generator: torch.Generator) -> Tensor:
        """Draw n intervals."""
        return torch.randint(len(times) - 1, (n,), generator=generator, device=generator.device)


class StratifiedIntervals(AbstractIntervalLaw):
    """Each interval equally likely, all of them in a batch: one shared uniform offset on a lattice."""

    def __call__(self, n: int, process: GaussianProcess, times: Tensor, generator: torch.Generator) -> Tensor:
        """Draw n intervals."""
        intervals = len(times) - 1
        return (lattice(n, generator) * intervals).long().clamp(max=intervals - 1)


class LogNormalIntervals(AbstractIntervalLaw):
    """p_i ∝ Φ((ln s_i − mean)/sd) − Φ((ln s_{i+1} − mean)/sd), s = σ/α: a log-normal law of noise, discretised.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, §3.5.

    Args:
        mean: of ln s.
        sd: of ln s.

    Raises:
        ValueError: if sd is not above 0.
    """

    def __init__(self, mean: float = -1.1, sd: float = 2.0) -> None:
        if not (sd > 0 and math.isfinite(mean)):
            raise ValueError(f"sd={sd} must be above 0 and mean={mean} finite")
        self.mean, self.sd = mean, sd

    def probabilities(self, process: GaussianProcess, times: Tensor) -> Tensor:
        """Return p_i of the N intervals, float64 ``(N,)``."""
        below = torch.special.ndtr((-process.schedule.log_ratio(times) - self.mean) / self.sd)
        mass = below[:-1] - below[1:]
        return mass / mass.sum()

    def __call__(self, n: int, process: GaussianProcess, times: Tensor, generator: torch.Generator) -> Tensor:
        """Draw n intervals."""
        shares = self.probabilities(process, times).to(generator.device)
        return torch.multinomial(shares, n, replacement=True, generator=generator)
