"""Laws of the jumps that a flow map is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.objectives.time_sampling import AbstractTimes, LogitNormalTimes, StratifiedTimes
from isocline.processes.gaussian import GaussianProcess

__all__ = ["AbstractJumpLaw", "DyadicJumps", "Jumps", "SortedJumps"]


class Jumps(NamedTuple):
    """A batch of jumps: some moving, the others, after them, of no length.

    Attributes:
        start: t ``(B,)`` float64, within the process's [t_min, t_max].
        end: s, likewise, 0 <= s <= t; s < t in the first ``moving`` ones, s = t in the others.
        moving: how many.
    """

    start: Tensor
    end: Tensor
    moving: int


class AbstractJumpLaw(ABC):
    """``law(n, process, generator) -> Jumps``; of every batch the same share moves, so that shapes are always alike.

    Args:
        still: share of the jumps of no length, on which the slope itself is learnt.

    Raises:
        ValueError: if the share is outside [0, 1].
    """

    def __init__(self, still: float) -> None:
        if not 0 <= still <= 1:
            raise ValueError(f"still={still} must be a share, from 0 to 1")
        self.still = still

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Jumps:
        """Draw n jumps on the generator's device."""
        moving = n - round(self.still * n)
        start, end = self._moving(moving, process, generator)
        still = self._starts(n - moving, process, generator)
        return Jumps(torch.cat([start, still]), torch.cat([end, still]), moving)

    @abstractmethod
    def _moving(self, n: int, process: GaussianProcess, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return starts and ends ``(n,)``."""

    @abstractmethod
    def _starts(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Return the times of jumps of no length, ``(n,)``."""


class SortedJumps(AbstractJumpLaw):
    """Two independent times, the later one first.

    Where t_min > 0, ends are spread from [t_min, t_max] to [0, t_max], since maps may lead to data.

    Source: *Mean Flows for One-step Generative Modeling*, Geng et al., 2025, §4.3.

    Args:
        times: law of either; the article's logit-normal by default.
        still: share of the jumps of no length.
    """

    def __init__(self, times: AbstractTimes[GaussianProcess] | None = None, still: float = 0.75) -> None:
        super().__init__(still)
        self.times = LogitNormalTimes(-0.4, 1.0) if times is None else times

    def _moving(self, n: int, process: GaussianProcess, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first, second = (self.times(n, process, generator) for _ in range(2))
        end = torch.minimum(first, second)
        spread = process.t_max / (process.t_max - process.t_min)
        return torch.maximum(first, second), (end - process.t_min) * spread

    def _starts(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        return self.times(n, process, generator)


class DyadicJumps(AbstractJumpLaw):
    """Jumps of length t_max/2^k that start at a multiple of it, k = 0, …, levels − 1 equally likely.

    Source: *One Step Diffusion via Shortcut Models*, Frans et al., 2025, §3.1, where k counts log2 of the steps.

    Args:
        levels: how many lengths; those of the shortest are t_max/2^(levels − 1).
        still: share of the jumps of no length, at any time.

    Raises:
        ValueError: if there is not at least one level.
    """

    def __init__(self, levels: int = 7, still: float = 0.75) -> None:
        super().__init__(still)
        if levels < 1:
            raise ValueError(f"levels={levels} must be at least 1")
        self.levels = levels
        self.times = StratifiedTimes()

    def shortest(self, process: GaussianProcess) -> float:
        """Return the least length of a jump that moves."""
        return float(process.t_max * 2.0 ** (1 - self.levels))

    def _moving(self, n: int, process: GaussianProcess, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = generator.device
        parts = 2 ** torch.randint(self.levels, (n,), generator=generator, device=device)
        index = (torch.rand(n, generator=generator, dtype=torch.float64, device=device) * parts).long()
        return process.t_max * (index + 1) / parts.double(), process.t_max * index / parts.double()

    def _starts(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        return self.times(n, process, generator)
