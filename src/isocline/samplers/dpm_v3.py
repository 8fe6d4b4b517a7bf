"""DPM-Solver-v3: the linear part, and the growth of the remainder, are those that suit the model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.samplers.exponential import ExponentialSampler
from isocline.samplers.extrapolation import lagrange
from isocline.samplers.log_ratio import AbstractForm, log_ratio_at
from isocline.samplers.model_statistics import ModelStatistics
from isocline.samplers.multistep import ExponentialMultistep

__all__ = ["StatisticsForm", "with_statistics"]

_INTERVALS = 64


class StatisticsForm(AbstractForm):
    """du/dλ = −l u − N for u = x/α; of f = e^{−∫s} N − ∫ e^{−∫s} b, which s and b make nearly constant, the polynomial
    is taken.

    u1 = A [u0 − ∫ E B dλ − Σ_j f_j ∫ E ℓ_j dλ] with A = e^{−∫l}, E = e^{∫(l+s)}, B = ∫ e^{−∫s} b, all integrals from
    the start of the step. They are found by quadrature on 64 intervals, once for each step of a grid. With b = 0,
    (l, s) = (1, 0) is the data form and (0, −1) the noise form.

    Source: *DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics*, Zheng et al., 2023, Eqs. 8
    to 10 and Algorithm 1.

    Args:
        statistics: of the model that is sampled; without them there is nothing to sample with (see `with_statistics`).
    """

    def __init__(self, statistics: ModelStatistics | None = None) -> None:
        self._statistics = statistics
        self._weights = functools.lru_cache(maxsize=512)(self._find_weights)
        self._linear = functools.lru_cache(maxsize=512)(self._find_linear)

    @property
    def statistics(self) -> ModelStatistics:
        """The statistics.

        Raises:
            ValueError: if there are none.
        """
        if self._statistics is None:
            raise ValueError(
                "DPM-Solver-v3 needs statistics of the model that it samples; estimate them by "
                "isocline.samplers.model_statistics.estimate_statistics and hand them over by with_statistics, or take "
                "dpmpp_3m or unipc, which need none"
            )
        return self._statistics

    def remainder(self, s: float, y: Tensor, slope: Tensor) -> Tensor:
        """N = e^{−λ} ε − l u = s (ε − x_0) + (s − l) y/(1 − s)."""
        linear = self._linear(s, y.dtype, y.device)
        return torch.addcmul(s * slope, y, (s - linear) / (1 - s))

    def advance(self, y: Tensor, s0: float, s1: float, nodes: Sequence[float], remainders: Sequence[Tensor]) -> Tensor:
        """See the base class."""
        weights = self._weights(s0, s1, tuple(nodes), y.dtype, y.device)
        total = torch.addcmul(weights.shift, y, weights.factor)
        for weight, value in zip(weights.remainders, remainders, strict=True):
            total = torch.addcmul(total, value, weight)
        return total

    def _find_linear(self, s: float, dtype: torch.dtype, device: torch.device) -> Tensor:
        linear = self.statistics.at(torch.tensor([log_ratio_at(s)], dtype=torch.float64))[0]
        return linear[0].to(device, dtype)

    def _find_weights(
        self, s0: float, s1: float, nodes: tuple[float, ...], dtype: torch.dtype, device: torch.device
    ) -> _Weights:
        start = log_ratio_at(s0)
        h = log_ratio_at(s1) - start
        shares = torch.tensor([(log_ratio_at(node) - start) / h for node in nodes], dtype=torch.float64)
        step = _Integrals.over(self.statistics, start, log_ratio_at(s1))
        past = [_Integrals.over(self.statistics, start, log_ratio_at(node)) for node in nodes]
        theta = torch.linspace(0, 1, _INTERVALS + 1, dtype=torch.float64)
        measure = _simpson(h)
        gain = (step.linear + step.growth).exp()
        decay = (-step.linear[-1]).exp()
        shift = -torch.einsum("m,m...->...", measure, gain * step.drift)
        weights = []
        for basis, point in zip(lagrange(shares, theta), past, strict=True):
            mass = torch.einsum("m,m...->...", measure * basis, gain)
            weights.append(-decay * (-point.growth[-1]).exp() * mass)
            shift = shift + mass * point.drift[-1]
        scale = 1 - s1

        def fit(value: Tensor) -> Tensor:
            return (scale * value).to(device, dtype)

        return _Weights(fit(decay / (1 - s0)), fit(decay * shift), tuple(fit(value) for value in weights))


def with_statistics(sampler: ExponentialSampler, statistics: ModelStatistics) -> ExponentialSampler:
    """Return a DPM-Solver-v3 sampler with the statistics of one model.

    Args:
        sampler: its method's form is a `StatisticsForm`.
        statistics: of the model that it is to sample.

    Raises:
        TypeError: if it has another form.
    """
    method = sampler.method
    if not isinstance(method, ExponentialMultistep) or not isinstance(method.form, StatisticsForm):
        raise TypeError(f"{type(method).__name__} has no use for statistics of the model; expected DPM-Solver-v3")
    informed = ExponentialMultistep(method.order, StatisticsForm(statistics), method.corrector)
    return ExponentialSampler(informed, sampler.grid, sampler.wrap)


class _Weights(NamedTuple):
    """y1 = factor y0 + shift + Σ remainders N; each ``(*event)``."""

    factor: Tensor
    shift: Tensor
    remainders: tuple[Tensor, ...]


class _Integrals(NamedTuple):
    """∫l, ∫s and ∫ e^{−∫s} b from a start to equidistant λ, each ``(M + 1, *event)``."""

    linear: Tensor
    growth: Tensor
    drift: Tensor

    @classmethod
    def over(cls, statistics: ModelStatistics, start: float, end: float) -> _Integrals:
        places = torch.linspace(start, end, _INTERVALS + 1, dtype=torch.float64)
        linear, growth, drift = statistics.at(places)
        width = (end - start) / _INTERVALS
        grown = _cumulative(growth, width)
        return cls(_cumulative(linear, width), grown, _cumulative((-grown).exp() * drift, width))


def _cumulative(values: Tensor, width: float) -> Tensor:
    """Trapezoidal rule up to each place."""
    return torch.cat([torch.zeros_like(values[:1]), torch.cumulative_trapezoid(values, dx=width, dim=0)])


def _simpson(length: float) -> Tensor:
    weights = torch.full((_INTERVALS + 1,), 2.0, dtype=torch.float64)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return weights * (length / _INTERVALS / 3)
