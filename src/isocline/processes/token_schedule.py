"""Survival schedules of token corruption: the probability a(t) that a token is still clean at time t.

Every schedule here has a(0) = 1 and a(1) = 0 exactly, falls monotonically, and is computed in float64: with other end
values the integrals of masked diffusion and of discrete flow matching would not be bounds on the likelihood.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["AbstractSurvival", "CosineSurvival", "GeometricSurvival", "LinearSurvival", "PolynomialSurvival"]

# Halvings of [0, 1] after which a float64 time is as exact as it can be.
_HALVINGS = 60


class AbstractSurvival(ABC):
    """The probability a(t) that a token survives to time t; ``t`` of any shape, results float64 of that shape."""

    @property
    def onset(self) -> float:
        """The exponent s of the first noise, 1 − a(t) ~ t^s as t → 0: what times of little variance depend on."""
        return 1.0

    @abstractmethod
    def a(self, t: Tensor) -> Tensor:
        """Survival probability at ``t``."""

    @abstractmethod
    def da(self, t: Tensor) -> Tensor:
        """Derivative a'(t), at most 0."""

    def inverse(self, a: Tensor) -> Tensor:
        """Time at which the survival probability is ``a``, for ``a`` in [0, 1]; by bisection unless overridden."""
        a = a.double()
        low, high = torch.zeros_like(a), torch.ones_like(a)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            late = self.a(middle) < a
            low, high = torch.where(late, low, middle), torch.where(late, middle, high)
        # An end is met exactly: the halvings approach it only.
        return torch.where(a >= 1.0, 0.0, torch.where(a <= 0.0, 1.0, 0.5 * (low + high)))

    def hazard(self, t: Tensor) -> Tensor:
        """Rate −a'/(1−a), with which generation decides an undecided token; infinite at t = 0."""
        return -self.da(t) / (1.0 - self.a(t))


class PolynomialSurvival(AbstractSurvival):
    """a(t) = 1 − t^w ("Simplified and Generalized Masked Diffusion for Discrete Data", Shi et al., 2024).

    Args:
        exponent: w, positive.

    Raises:
        ValueError: if the exponent is not positive.
    """

    def __init__(self, exponent: float = 1.0) -> None:
        if exponent <= 0:
            raise ValueError(f"exponent = {exponent}: must be positive, so that 1 - t^exponent falls with t")
        self.exponent = exponent

    @property
    def onset(self) -> float:
        """W."""
        return self.exponent

    def a(self, t: Tensor) -> Tensor:
        """1 − t^w."""
        return 1.0 - t.double() ** self.exponent

    def da(self, t: Tensor) -> Tensor:
        """−w t^(w−1)."""
        return -self.exponent * t.double() ** (self.exponent - 1.0)

    def inverse(self, a: Tensor) -> Tensor:
        """(1 − a)^(1/w)."""
        return (1.0 - a.double()) ** (1.0 / self.exponent)

    def hazard(self, t: Tensor) -> Tensor:
        """w/t: the quotient −a'/(1−a) without its cancellation near t = 0."""
        return self.exponent / t.double()


class LinearSurvival(PolynomialSurvival):
    """a(t) = 1 − t: the share of noise is the time itself."""

    def __init__(self) -> None:
        super().__init__(exponent=1.0)


class CosineSurvival(AbstractSurvival):
    """a(t) = 1 − cos(π(1−t)/2) ("MaskGIT", Chang et al., 2022; Shi et al., 2024).

    Few tokens are decided at a time while many are still undecided.
    """

    def a(self, t: Tensor) -> Tensor:
        """1 − sin(πt/2), the same function; exact at both ends, where the cosine would leave 1e-16 at t = 0."""
        return 1.0 - torch.sin(0.5 * math.pi * t.double())

    def da(self, t: Tensor) -> Tensor:
        """−(π/2) cos(πt/2)."""
        return -0.5 * math.pi * torch.cos(0.5 * math.pi * t.double())

    def inverse(self, a: Tensor) -> Tensor:
        """(2/π) arcsin(1 − a)."""
        return torch.asin(1.0 - a.double()) * (2.0 / math.pi)

    def hazard(self, t: Tensor) -> Tensor:
        """(π/2) cot(πt/2): the quotient without its cancellation near t = 0."""
        return 0.5 * math.pi / torch.tan(0.5 * math.pi * t.double())


class GeometricSurvival(AbstractSurvival):
    """Survival under a geometrically growing total rate, stretched to meet both ends exactly.

    g(t) = exp(−b_min^(1−t) b_max^t) (Lou et al., "Discrete Diffusion Modeling by Estimating the Ratios of the Data
    Distribution", 2024, with its geometric noise); a(t) = (g(t) − g(1)) / (g(0) − g(1)).

    Args:
        rate_min: b_min, the total rate at t = 0.
        rate_max: b_max, the total rate at t = 1.

    Raises:
        ValueError: unless 0 < rate_min < rate_max.
    """

    def __init__(self, rate_min: float = 1e-5, rate_max: float = 20.0) -> None:
        if not 0 < rate_min < rate_max:
            raise ValueError(f"rate_min = {rate_min}, rate_max = {rate_max}: need 0 < rate_min < rate_max")
        self.log_min = math.log(rate_min)
        self.log_ratio = math.log(rate_max / rate_min)
        self.bottom = math.exp(-math.exp(self.log_min + self.log_ratio))
        self.span = math.exp(-rate_min) - self.bottom

    def _total(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_min + self.log_ratio * t.double())

    def a(self, t: Tensor) -> Tensor:
        """(g(t) − g(1)) / (g(0) − g(1)), pinned at both ends against rounding."""
        t = t.double()
        value = (torch.exp(-self._total(t)) - self.bottom) / self.span
        return torch.where(t == 0, 1.0, torch.where(t == 1, 0.0, value.clamp(0.0, 1.0)))

    def da(self, t: Tensor) -> Tensor:
        """−b(t) ln(b_max/b_min) g(t) / (g(0) − g(1)) with b(t) the total rate."""
        total = self._total(t)
        return -total * self.log_ratio * torch.exp(-total) / self.span

    def inverse(self, a: Tensor) -> Tensor:
        """Solve a(t) = a in closed form."""
        total = -torch.log(a.double() * self.span + self.bottom)
        return ((torch.log(total) - self.log_min) / self.log_ratio).clamp(0.0, 1.0)
