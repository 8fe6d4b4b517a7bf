"""Laws of the pairs of times between which a consistency model is to agree with itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.distillation.curriculum import AbstractCurriculum, DoublingCurriculum
from isocline.distillation.interval_law import AbstractIntervalLaw, StratifiedIntervals
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable

__all__ = ["AbstractTimePairs", "GridPairs", "ShrinkingPairs", "TimePair"]


class TimePair(NamedTuple):
    """Two times on one trajectory.

    Attributes:
        high: the noisier one, ``(B,)`` float64.
        low: the other, at least 0.
    """

    high: Tensor
    low: Tensor


class AbstractTimePairs(ABC):
    """``pairs(n, process, step, generator) -> TimePair``: closer together as training goes on."""

    @abstractmethod
    def __call__(self, n: int, process: GaussianProcess, step: int, generator: torch.Generator) -> TimePair:
        """Draw n pairs on the generator's device.

        Args:
            n: how many.
            process: gives the schedule and the range of times.
            step: optimiser steps done so far.
            generator: source of the draws.
        """

    @abstractmethod
    def intervals(self, step: int) -> float:
        """Return into how many intervals the flow is cut at this step, roughly where that varies along it."""


class GridPairs(AbstractTimePairs):
    """Neighbours of a grid of N(k) intervals, the last of which ends at t = 0 exactly.

    Args:
        curriculum: N(k).
        law: which interval.
        grid: the neighbouring times.
        variable: in which the grid is made; it must end at data.
    """

    def __init__(
        self,
        curriculum: AbstractCurriculum | None = None,
        law: AbstractIntervalLaw | None = None,
        grid: AbstractTimeGrid | None = None,
        variable: AbstractVariable | None = None,
    ) -> None:
        self.curriculum = DoublingCurriculum() if curriculum is None else curriculum
        self.law = StratifiedIntervals() if law is None else law
        self.grid = UniformTimeGrid() if grid is None else grid
        self.variable = LinearPathVariable() if variable is None else variable

    def __call__(self, n: int, process: GaussianProcess, step: int, generator: torch.Generator) -> TimePair:
        """Draw n pairs."""
        positions = self.grid(process, self.variable, self.curriculum(step), end=0.0)
        times = self.variable.time(process, positions)
        # Their ends to the last bit, whatever a way there and back through λ made of them.
        times[0], times[-1] = process.t_max, 0.0
        index = self.law(n, process, times, generator)
        times = times.to(index.device)
        return TimePair(times[index], times[index + 1])

    def intervals(self, step: int) -> float:
        """Return N(step)."""
        return float(self.curriculum(step))


class ShrinkingPairs(AbstractTimePairs):
    """Any t, and r = t max(0, 1 − n(t)/q^a) with n(t) = 1 + k/(1 + e^{bt}) and a = 1, 2, … the stage of training.

    The first pairs end at data, so that training begins as that of a diffusion model; each stage brings r nearer to t
    by a factor of q. t and r are meant in the variable's own time: the article's is `NoiseRatioVariable`, which has no
    place for t = 1 of processes with α(1) = 0; in `LinearPathVariable`, the default, that is a time like others, on
    [0, 1].

    Source: *Consistency Models Made Easy*, Geng et al., 2025, §3.3; a stage lasts d = ⌈steps/stages⌉ optimiser steps.

    Args:
        steps: optimiser steps of the whole run.
        stages: into how many it is divided; at the last one r = t (1 − n(t)/q^stages).
        q: factor by which the pairs draw together at each stage.
        k: how much wider than 1/q^a the pairs are near data; 0 for the same ratio everywhere.
        b: how fast that fades with t.
        times: law of t.
        variable: in which the ratio is taken.

    Raises:
        ValueError: unless steps >= 1, stages >= 1, q > 1 and k >= 0.
    """

    def __init__(
        self,
        steps: int,
        stages: int = 8,
        q: float = 2.0,
        k: float = 8.0,
        b: float = 1.0,
        times: AbstractTimes[GaussianProcess] | None = None,
        variable: AbstractVariable | None = None,
    ) -> None:
        if not (steps >= 1 and stages >= 1 and q > 1 and k >= 0):
            raise ValueError(f"steps={steps} and stages={stages} must be at least 1, q={q} above 1, k={k} at least 0")
        self.period, self.stages = -(-steps // stages), stages
        self.q, self.k, self.b = q, k, b
        self.times = StratifiedTimes() if times is None else times
        self.variable = LinearPathVariable() if variable is None else variable

    def __call__(self, n: int, process: GaussianProcess, step: int, generator: torch.Generator) -> TimePair:
        """Draw n pairs."""
        high = self.times(n, process, generator)
        position = self.variable.position(process, high)
        wider = 1 + self.k * torch.sigmoid(-self.b * position)
        ratio = (1 - wider / self.intervals(step)).clamp(min=0.0)
        return TimePair(high, torch.where(ratio > 0, self.variable.time(process, position * ratio), 0.0))

    def intervals(self, step: int) -> float:
        """Return q^a: (t − r)/t is 1/q^a where n(t) = 1."""
        return float(self.q ** min(step // self.period + 1, self.stages))
