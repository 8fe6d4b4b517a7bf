"""Laws of the training time t, float64 in the process's [t_min, t_max]; their density is part of the loss's weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess

__all__ = [
    "AbstractTimes",
    "AntitheticTimes",
    "ClippedTimes",
    "LogNormalNoiseTimes",
    "LogRatioTimes",
    "LogitNormalTimes",
    "StratifiedTimes",
    "TimeRange",
    "Times",
    "UniformTimes",
    "lattice",
]


class TimeRange(Protocol):
    """What most laws of times ask of a process: the ends of its range of training times."""

    @property
    def t_min(self) -> float:
        """The end at the data."""

    @property
    def t_max(self) -> float:
        """The end at the noise."""


ProcessT = TypeVar("ProcessT", bound=TimeRange)
AskedOf_contra = TypeVar("AskedOf_contra", contravariant=True)


class AbstractTimes(ABC, Generic[AskedOf_contra]):
    """``times(n, process, generator) -> (n,)`` float64, on the generator's device.

    The parameter of the type is what is asked of the process: a range, or a whole Gaussian process.
    """

    @abstractmethod
    def __call__(self, n: int, process: AskedOf_contra, generator: torch.Generator) -> Tensor:
        """Draw n times."""


Times = AbstractTimes


def lattice(n: int, generator: torch.Generator) -> Tensor:
    """Draw n points (u + i/n) mod 1 with one shared u: each uniform on [0, 1), together one in every stratum.

    Source: *Variational Diffusion Models*, Kingma et al., 2021, App. I.1.
    """
    steps = torch.arange(n, dtype=torch.float64, device=generator.device) / n
    return (steps + _uniform(1, generator)).remainder(1.0)


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64, device=generator.device)


def _shares(n: int, unit: AbstractTimes[ProcessT], process: ProcessT, generator: torch.Generator) -> Tensor:
    """Draws of a law that is uniform on [t_min, t_max], as shares of that range."""
    return (unit(n, process, generator) - process.t_min) / (process.t_max - process.t_min)


def _standard_normals(
    n: int, unit: AbstractTimes[ProcessT] | None, process: ProcessT, generator: torch.Generator
) -> Tensor:
    """N(0, 1) by the inverse of its distribution function at shares, or independent draws without ``unit``."""
    if unit is None:
        return _normal(n, generator)
    tiny = 2.0**-53
    return torch.special.ndtri(_shares(n, unit, process, generator).clamp(tiny, 1 - tiny))


def _into_range(unit: Tensor, process: TimeRange) -> Tensor:
    return process.t_min + (process.t_max - process.t_min) * unit


class UniformTimes(AbstractTimes[TimeRange]):
    """Independent, uniform on [t_min, t_max]."""

    def __call__(self, n: int, process: TimeRange, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        return _into_range(_uniform(n, generator), process)


class StratifiedTimes(AbstractTimes[TimeRange]):
    """One shared uniform offset on a lattice: t_i = (u + i/n) mod 1, so that every batch covers the range.

    Each time is uniform on [t_min, t_max]; together they have less variance than independent draws.

    Source: *Variational Diffusion Models*, Kingma et al., 2021, App. I.1.
    """

    def __call__(self, n: int, process: TimeRange, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        return _into_range(lattice(n, generator), process)


class AntitheticTimes(AbstractTimes[TimeRange]):
    """Pairs u and 1 − u: what is monotone in t has less variance than under independent draws.

    Each time is uniform on [t_min, t_max]; of an odd number one has no partner. Source: Hammersley & Morton, 1956.
    """

    def __call__(self, n: int, process: TimeRange, generator: torch.Generator) -> Tensor:
        """Draw n times, the partners in the second half."""
        first = _uniform((n + 1) // 2, generator)
        return _into_range(torch.cat([first, 1.0 - first[: n // 2]]), process)


class LogRatioTimes(AbstractTimes[GaussianProcess]):
    """λ = ln(α/σ) uniform between its ends: importance sampling of the likelihood-weighted loss.

    The density is q(t) ∝ −λ̇ = ½ g²/σ², the likelihood's weight of the noise's error; divide other weights by q with
    `isocline.objectives.weighting.ImportanceWeighting`. Both ends of λ must be finite: choose t_min > 0 where
    σ(0) = 0 and t_max < 1 where α(1) = 0.

    Source: *Maximum Likelihood Training of Score-Based Diffusion Models*, Song et al., 2021, §5.1; *Variational
    Diffusion Models*, Kingma et al., 2021, §5.1.

    Args:
        unit: how the uniform draws are made, `UniformTimes` by default: stratified or antithetic ones are carried over.
    """

    def __init__(self, unit: AbstractTimes[GaussianProcess] | None = None) -> None:
        self.unit = UniformTimes() if unit is None else unit

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times.

        Raises:
            ValueError: if λ is infinite at t_min or t_max.
        """
        first, last = (float(process.schedule.log_ratio(t)) for t in (process.t_min, process.t_max))
        if not (math.isfinite(first) and math.isfinite(last)):
            raise ValueError(
                f"t_min={process.t_min}, t_max={process.t_max}: λ is {first} and {last} there; LogRatioTimes needs "
                "finite ends, set t_min=0.001 or t_max=0.999"
            )
        share = _shares(n, self.unit, process, generator)
        times = process.schedule.inverse_log_ratio(first + share * (last - first))
        return times.clamp(process.t_min, process.t_max)


class LogitNormalTimes(AbstractTimes[TimeRange]):
    """Logistic function of N(mean, sd²), then mapped to [t_min, t_max]: more training at middle times.

    Source: *Scaling Rectified Flow Transformers*, Esser et al., 2024, §3.1.

    Args:
        mean: of the logit; above 0 favours noise.
        sd: of the logit.
        unit: uniform draws whose quantiles are taken: `StratifiedTimes` or `AntitheticTimes` give a loss of less
            variance; independent normal draws by default.

    Raises:
        ValueError: if sd is not above 0.
    """

    def __init__(self, mean: float = 0.0, sd: float = 1.0, unit: AbstractTimes[TimeRange] | None = None) -> None:
        if not sd > 0:
            raise ValueError(f"sd={sd} must be above 0")
        self.mean, self.sd, self.unit = mean, sd, unit

    def __call__(self, n: int, process: TimeRange, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        normals = _standard_normals(n, self.unit, process, generator)
        return _into_range(torch.sigmoid(self.mean + self.sd * normals), process)


class LogNormalNoiseTimes(AbstractTimes[GaussianProcess]):
    """ln(σ/α) ~ N(mean, sd²), limited to the ratios reached on [t_min, t_max]: EDM's training law.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Table 1.

    Args:
        mean: of ln(σ/α).
        sd: of ln(σ/α).
        unit: as for `LogitNormalTimes`.

    Raises:
        ValueError: if sd is not above 0.
    """

    def __init__(self, mean: float = -1.2, sd: float = 1.2, unit: AbstractTimes[GaussianProcess] | None = None) -> None:
        if not (sd > 0 and math.isfinite(mean)):
            raise ValueError(f"sd={sd} must be above 0 and mean={mean} finite")
        self.mean, self.sd, self.unit = mean, sd, unit

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        normals = _standard_normals(n, self.unit, process, generator)
        t = process.schedule.inverse_log_ratio(-(self.mean + self.sd * normals))
        return t.clamp(process.t_min, process.t_max)


class ClippedTimes(AbstractTimes[TimeRange]):
    """Uniform on a part of the range: training where the loss has little variance and much to teach.

    Fit for a network that is evaluated by a loss over the whole range: the clipped integral is no bound.

    Source: *Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models*, Arriola et al., 2025,
    §4.3 (clipped noise schedules).

    Args:
        first: share of the range at which it starts, β.
        last: share at which it ends, ω.
        unit: how the uniform draws are made, `StratifiedTimes` by default.

    Raises:
        ValueError: unless 0 <= first < last <= 1.
    """

    def __init__(self, first: float, last: float, unit: AbstractTimes[TimeRange] | None = None) -> None:
        if not 0.0 <= first < last <= 1.0:
            raise ValueError(f"first={first}, last={last}: need 0 <= first < last <= 1, shares of the range of times")
        self.first, self.last = first, last
        self.unit = StratifiedTimes() if unit is None else unit

    def __call__(self, n: int, process: TimeRange, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        share = self.first + (self.last - self.first) * _shares(n, self.unit, process, generator)
        return _into_range(share, process)
