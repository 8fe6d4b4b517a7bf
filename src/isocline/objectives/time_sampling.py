"""Laws of the training time t, float64 in the process's [t_min, t_max]; their density is part of the loss's weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess

__all__ = [
    "AbstractTimes",
    "AntitheticTimes",
    "LogNormalNoiseTimes",
    "LogRatioTimes",
    "LogitNormalTimes",
    "StratifiedTimes",
    "Times",
    "UniformTimes",
]


class AbstractTimes(ABC):
    """``times(n, process, generator) -> (n,)`` float64, on the generator's device."""

    @abstractmethod
    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times."""


Times = AbstractTimes


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64, device=generator.device)


def _into_range(unit: Tensor, process: GaussianProcess) -> Tensor:
    return process.t_min + (process.t_max - process.t_min) * unit


class UniformTimes(AbstractTimes):
    """Independent, uniform on [t_min, t_max]."""

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        return _into_range(_uniform(n, generator), process)


class StratifiedTimes(AbstractTimes):
    """One shared uniform offset on a lattice: t_i = (u + i/n) mod 1, so that every batch covers the range.

    Each time is uniform on [t_min, t_max]; together they have less variance than independent draws.

    Source: *Variational Diffusion Models*, Kingma et al., 2021, App. I.1.
    """

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        lattice = torch.arange(n, dtype=torch.float64, device=generator.device) / n
        return _into_range((lattice + _uniform(1, generator)).remainder(1.0), process)


class AntitheticTimes(AbstractTimes):
    """Pairs u and 1 − u: what is monotone in t has less variance than under independent draws.

    Each time is uniform on [t_min, t_max]; of an odd number one has no partner. Source: Hammersley & Morton, 1956.
    """

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times, the partners in the second half."""
        first = _uniform((n + 1) // 2, generator)
        return _into_range(torch.cat([first, 1.0 - first[: n // 2]]), process)


class LogRatioTimes(AbstractTimes):
    """λ = ln(α/σ) uniform between its ends: importance sampling of the likelihood-weighted loss.

    The density is q(t) ∝ −λ̇ = ½ g²/σ², the likelihood's weight of the noise's error; divide other weights by q with
    `isocline.objectives.weighting.ImportanceWeighting`. Both ends of λ must be finite: choose t_min > 0 where
    σ(0) = 0 and t_max < 1 where α(1) = 0.

    Source: *Maximum Likelihood Training of Score-Based Diffusion Models*, Song et al., 2021, §5.1; *Variational
    Diffusion Models*, Kingma et al., 2021, §5.1.

    Args:
        unit: how the uniform draws are made, `UniformTimes` by default: stratified or antithetic ones are carried over.
    """

    def __init__(self, unit: AbstractTimes | None = None) -> None:
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
        share = (self.unit(n, process, generator) - process.t_min) / (process.t_max - process.t_min)
        times = process.schedule.inverse_log_ratio(first + share * (last - first))
        return times.clamp(process.t_min, process.t_max)


class LogitNormalTimes(AbstractTimes):
    """Logistic function of N(mean, sd²), then mapped to [t_min, t_max]: more training at middle times.

    Source: *Scaling Rectified Flow Transformers*, Esser et al., 2024, §3.1.

    Args:
        mean: of the logit; above 0 favours noise.
        sd: of the logit.

    Raises:
        ValueError: if sd is not above 0.
    """

    def __init__(self, mean: float = 0.0, sd: float = 1.0) -> None:
        if not sd > 0:
            raise ValueError(f"sd={sd} must be above 0")
        self.mean, self.sd = mean, sd

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        return _into_range(torch.sigmoid(self.mean + self.sd * _normal(n, generator)), process)


class LogNormalNoiseTimes(AbstractTimes):
    """ln(σ/α) ~ N(mean, sd²), limited to the ratios reached on [t_min, t_max]: EDM's training law.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Table 1.

    Args:
        mean: of ln(σ/α).
        sd: of ln(σ/α).

    Raises:
        ValueError: if sd is not above 0.
    """

    def __init__(self, mean: float = -1.2, sd: float = 1.2) -> None:
        if not (sd > 0 and math.isfinite(mean)):
            raise ValueError(f"sd={sd} must be above 0 and mean={mean} finite")
        self.mean, self.sd = mean, sd

    def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
        """Draw n times."""
        t = process.schedule.inverse_log_ratio(-(self.mean + self.sd * _normal(n, generator)))
        return t.clamp(process.t_min, process.t_max)
