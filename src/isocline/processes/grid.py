"""Where a sampler's steps lie: n + 1 positions of a variable, decreasing from its start to its end, float64.

The last position is the variable's end (t_min for `TimeVariable`, exactly σ/α = 0 for the others), so no grid repeats
a point and none leaves noise that the variable can remove.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.probability_flow import AbstractVariable

__all__ = ["AbstractTimeGrid", "GivenGrid", "PowerGrid", "QuadraticTimeGrid", "UniformLogRatioGrid", "UniformTimeGrid"]


class AbstractTimeGrid(ABC):
    """``grid(process, variable, n)`` gives the ends of n steps in the variable's own time."""

    def __call__(
        self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float | None = None
    ) -> Tensor:
        """Return n + 1 strictly decreasing positions.

        Args:
            process: gives the schedule and the range of times.
            variable: gives the meaning of a position, its start and its end.
            n: number of steps.
            end: the last position, the variable's end by default.

        Raises:
            ValueError: if n < 1.
        """
        if n < 1:
            raise ValueError(f"n={n} steps; a grid needs at least 1")
        end = variable.end(process) if end is None else end
        departures = variable.position(process, self._departures(process, variable, n, end))
        positions = torch.empty(n + 1, dtype=torch.float64)
        positions[:n] = departures
        # Whatever a formula's rounding or clipping made of the ends, they are the variable's.
        positions[0], positions[n] = variable.start(process), end
        return positions

    @abstractmethod
    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        """Return the times at which the n steps begin."""


def _spread(first: float, last: float, n: int, reaches_end: bool) -> Tensor:
    """N equidistant values from first: up to ``last`` itself, or to the last but one if the end is ``last``."""
    if reaches_end:
        return torch.linspace(first, last, n + 1, dtype=torch.float64)[:-1]
    return torch.linspace(first, last, n, dtype=torch.float64)


def _stops_at(process: GaussianProcess, variable: AbstractVariable, end: float, t: float) -> bool:
    """Whether the end lies at time t (and not below it)."""
    # t went through λ and back: a relative 1e-9 is rounding, not a step.
    return end >= float(variable.position(process, t)) * (1 - 1e-9)


class UniformTimeGrid(AbstractTimeGrid):
    """Equidistant in t."""

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        last = float(variable.time(process, torch.tensor(end, dtype=torch.float64)))
        return torch.linspace(process.t_max, last, n + 1, dtype=torch.float64)[:-1]


class QuadraticTimeGrid(AbstractTimeGrid):
    """Equidistant in √t: steps grow in proportion to the distance from data.

    Source: *Denoising Diffusion Implicit Models*, Song et al., 2021, App. D.2.
    """

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        last = float(variable.time(process, torch.tensor(end, dtype=torch.float64)))
        return torch.linspace(process.t_max**0.5, last**0.5, n + 1, dtype=torch.float64)[:-1].square()


class UniformLogRatioGrid(AbstractTimeGrid):
    """Equidistant in λ = ln(α/σ), between ±max_log_ratio where the schedule goes beyond; then to the end.

    Source: *DPM-Solver*, Lu et al., 2022, §3.4.

    Args:
        max_log_ratio: bound on |λ| of the interior points (e⁵ is a ratio of 148).
    """

    def __init__(self, max_log_ratio: float = 5.0) -> None:
        if not max_log_ratio > 0:
            raise ValueError(f"max_log_ratio={max_log_ratio} must be above 0")
        self.max_log_ratio = max_log_ratio

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        bound = self.max_log_ratio
        first = max(float(process.schedule.log_ratio(process.t_max)), -bound)
        last = min(float(process.schedule.log_ratio(process.t_min)), bound)
        stop = float(process.schedule.inverse_log_ratio(last))
        times = process.schedule.inverse_log_ratio(_spread(first, last, n, _stops_at(process, variable, end, stop)))
        return _from_start(process, times)


class PowerGrid(AbstractTimeGrid):
    """EDM's grid: (σ/α)^{1/ρ} equidistant, s_i = (s_max^{1/ρ} + i/(n−1) (s_min^{1/ρ} − s_max^{1/ρ}))^ρ, then the end.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Eq. 5.

    Args:
        rho: ρ; larger puts more steps at small noise.
        min_ratio: σ/α of the last departure, unless the schedule itself starts above it.
        max_ratio: largest σ/α of the interior points.
    """

    def __init__(self, rho: float = 7.0, min_ratio: float = 0.002, max_ratio: float = 80.0) -> None:
        if not (rho > 0 and 0 < min_ratio < max_ratio):
            raise ValueError(f"rho={rho} must be above 0 and 0 < min_ratio={min_ratio} < max_ratio={max_ratio}")
        self.rho, self.min_ratio, self.max_ratio = rho, min_ratio, max_ratio

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        ratios = (-process.schedule.log_ratio(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))).exp()
        first, last = min(float(ratios[0]), self.max_ratio), max(float(ratios[1]), self.min_ratio)
        stop = float(process.schedule.inverse_log_ratio(-torch.tensor(last, dtype=torch.float64).log()))
        roots = _spread(first ** (1 / self.rho), last ** (1 / self.rho), n, _stops_at(process, variable, end, stop))
        return _from_start(process, process.schedule.inverse_log_ratio(-self.rho * roots.log()))


class GivenGrid(AbstractTimeGrid):
    """Times that were found beforehand: an optimised grid, or another library's.

    The first departure is t_max and the last step leads to the variable's end, whatever is given for them.

    Args:
        times: for a number of steps n, the n times at which they begin, from t_max downwards.

    Raises:
        ValueError: unless each list holds as many times as steps, decreasing.
    """

    def __init__(self, times: Mapping[int, Sequence[float]]) -> None:
        for n, departures in times.items():
            falls = all(first > second for first, second in itertools.pairwise(departures))
            if len(departures) != int(n) or not falls:
                raise ValueError(f"times[{n}] = {list(departures)}: expected {n} decreasing times")
        self.times = {int(n): torch.tensor(list(departures), dtype=torch.float64) for n, departures in times.items()}

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        if n not in self.times:
            raise ValueError(
                f"n={n} steps; times are given for {sorted(self.times)}: take one of these budgets, or add its times"
            )
        return _from_start(process, self.times[n])


def _from_start(process: GaussianProcess, times: Tensor) -> Tensor:
    return times.index_fill(0, torch.tensor([0]), process.t_max)
