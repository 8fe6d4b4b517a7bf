"""The probability flow as a semi-linear equation in λ = ln(α/σ): what exponential integrators of diffusion share.

On the straight path of `LinearPathVariable`, y = (1 − s) x_0 + s ε with dy/ds = ε − x_0 and λ = ln((1 − s)/s) for every
process. Two scalings of y have a linear part that is a number and a remainder that the network predicts:

* y/(1 − s): d/dλ = x_0 − y/(1 − s), the *data* form (DPM-Solver++, UniPC), and
* y/s: d/dλ = y/s − ε, the *noise* form (DPM-Solver).

Both are du/dλ = A (u − g), A = −1 or 1. Weights are formed in s, so that λ may be infinite: a step to σ = 0 or from
α = 0 of one evaluation is finite, and is DDIM's.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from isocline.solvers.phi import phi_functions
from isocline.solvers.polynomial import integrated_lagrange

__all__ = ["B1", "B2", "AbstractForm", "AbstractLineWeight", "AbstractScaledForm", "DataForm", "NoiseForm"]


def log_ratio_at(s: float) -> float:
    """λ = ln((1 − s)/s), infinite at both ends."""
    if s in (0.0, 1.0):
        return math.copysign(math.inf, 0.5 - s)
    return math.log1p(-s) - math.log(s)


def position_at(log_ratio: float) -> float:
    """Return s = 1/(1 + e^λ), without overflow."""
    return 1 / (1 + math.exp(log_ratio)) if log_ratio < 0 else math.exp(-log_ratio) / (1 + math.exp(-log_ratio))


def phis_at(z: float, count: int) -> tuple[float, ...]:
    """φ_0(z) to φ_count(z); see `isocline.solvers.phi`."""
    return tuple(float(value) for value in phi_functions(torch.tensor(z, dtype=torch.float64), count))


def combine(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Σ w v, terms of weight zero left out."""
    kept = [(weight, value) for weight, value in terms if weight] or [terms[0]]
    total = kept[0][1] * kept[0][0]
    for weight, value in kept[1:]:
        total = torch.add(total, value, alpha=weight)
    return total


class AbstractForm(ABC):
    """A remainder that changes slowly along the flow, and how the rest is integrated exactly.

    Positions are those of `LinearPathVariable`; states and remainders have shape ``(B, *event)``.
    """

    @abstractmethod
    def remainder(self, s: float, y: Tensor, slope: Tensor) -> Tensor:
        """The remainder at position s, from the slope ε − x_0 there."""

    @abstractmethod
    def advance(self, y: Tensor, s0: float, s1: float, nodes: Sequence[float], remainders: Sequence[Tensor]) -> Tensor:
        """Integrate from s0 to s1 with the polynomial in λ through given remainders, apart from any noise.

        Args:
            y: state at s0.
            s0: start, below 1.
            s1: end, above 0.
            nodes: positions of the remainders, all distinct and inside (0, 1).
            remainders: as many values.
        """

    def leap(self, y: Tensor, s0: float, s1: float, slope: Tensor) -> Tensor:
        """The step of order 1, from and to anywhere in [0, 1], apart from any noise: DDIM's by default."""
        return torch.add(y, slope, alpha=s1 - s0)

    def spread(self, s0: float, s1: float) -> float:
        """Standard deviation of the noise that a step adds to y; 0 by default."""
        return 0.0

    @property
    def is_stochastic(self) -> bool:
        """Whether steps add noise."""
        return False


class AbstractLineWeight(ABC):
    """UniPC's B(h): the weight of the slope where the polynomial is a line, in place of ∫ e^{(1−θ)z} θ dθ.

    Any weight that agrees with it to first order keeps order 2.

    Source: *UniPC*, Zhao et al., 2023, §3.1 and App. F.
    """

    @abstractmethod
    def __call__(self, z: float) -> float:
        """B(h)/2 for z = A h."""


@dataclass(frozen=True)
class B1(AbstractLineWeight):
    """B(h) = z."""

    def __call__(self, z: float) -> float:
        """z/2."""
        return z / 2


@dataclass(frozen=True)
class B2(AbstractLineWeight):
    """B(h) = e^z − 1: with it the line is evaluated at the middle of the step, as DPM-Solver++(2M) does."""

    def __call__(self, z: float) -> float:
        """(e^z − 1)/2."""
        return math.expm1(z) / 2


@dataclass(frozen=True)
class AbstractScaledForm(AbstractForm):
    """du/dλ = A (u − g) for u = y/c(s) with a number A.

    The step is u1 = e^z u0 − z Σ_k k! φ_{k+1}(z) c_k for a remainder Σ_k c_k θ^k, z = A h.

    Source: *DPM-Solver*, Lu et al., 2022, Proposition 3.1; *DPM-Solver++*, Lu et al., 2022, Proposition 4.1.

    Attributes:
        line: weight of the slope of polynomials of degree 1; None takes the exact one.
    """

    line: AbstractLineWeight | None = None

    @property
    @abstractmethod
    def rate(self) -> float:
        """A."""

    @abstractmethod
    def scale(self, s: float) -> float:
        """c(s)."""

    @abstractmethod
    def factor(self, s0: float, s1: float) -> float:
        """c(s1)/c(s0) e^z, the factor of the state at the start."""

    def advance(self, y: Tensor, s0: float, s1: float, nodes: Sequence[float], remainders: Sequence[Tensor]) -> Tensor:
        """See the base class."""
        start = log_ratio_at(s0)
        h = log_ratio_at(s1) - start
        shares = tuple((log_ratio_at(node) - start) / h for node in nodes)
        weights = _polynomial_weights(shares, self.rate * h, self.line)
        scale = self.scale(s1)
        terms = [(scale * weight, value) for weight, value in zip(weights, remainders, strict=True)]
        return combine([(self.factor(s0, s1), y), *terms])


@dataclass(frozen=True)
class DataForm(AbstractScaledForm):
    """u = y/(1 − s), A = −(1 + η²), remainder x_0; with η > 0 of the reverse SDE
    dx = [F x − ½ (1 + η²) g² s] dt + η g dw̄.

    A step of one evaluation is y1 = (s1/s0) e^{−η²h} y0 + (1 − s1)(1 − e^{−(1+η²)h}) x_0 + s1 √(1 − e^{−2η²h}) z.

    Source: *DPM-Solver++*, Lu et al., 2022, §4 and §5 (SDE-DPM-Solver++ is η = 1).

    Attributes:
        eta: η; 0 is the probability flow, 1 Anderson's reverse SDE.

    Raises:
        ValueError: if η is negative.
    """

    line: AbstractLineWeight | None = B2()
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise ValueError(f"eta={self.eta} must be at least 0")

    @property
    def rate(self) -> float:
        """−(1 + η²)."""
        return -(1 + self.eta**2)

    @property
    def is_stochastic(self) -> bool:
        """Whether η > 0."""
        return self.eta > 0

    def scale(self, s: float) -> float:
        """Return 1 − s."""
        return 1 - s

    def factor(self, s0: float, s1: float) -> float:
        """(s1/s0) e^{−η²h}."""
        return s1 / s0 * _decay(s0, s1) ** self.eta**2

    def remainder(self, s: float, y: Tensor, slope: Tensor) -> Tensor:
        """x_0 = y − s (ε − x_0)."""
        return torch.add(y, slope, alpha=-s)

    def leap(self, y: Tensor, s0: float, s1: float, slope: Tensor) -> Tensor:
        """The formula above; infinite h is a decay to 0."""
        if not self.is_stochastic:
            return super().leap(y, s0, s1, slope)
        weight = (1 - s1) * (1 - _decay(s0, s1) ** (1 + self.eta**2))
        return combine([(self.factor(s0, s1), y), (weight, self.remainder(s0, y, slope))])

    def spread(self, s0: float, s1: float) -> float:
        """s1 √(1 − e^{−2η²h})."""
        return s1 * math.sqrt(1 - _decay(s0, s1) ** (2 * self.eta**2))


@dataclass(frozen=True)
class NoiseForm(AbstractScaledForm):
    """u = y/s, A = 1, remainder ε.

    Source: *DPM-Solver*, Lu et al., 2022, §3.
    """

    rate: ClassVar[float] = 1.0  # type: ignore[misc]  # the same for all, where the base class asks the instance

    def scale(self, s: float) -> float:
        """Return s."""
        return s

    def factor(self, s0: float, s1: float) -> float:
        """(1 − s1)/(1 − s0)."""
        return (1 - s1) / (1 - s0)

    def remainder(self, s: float, y: Tensor, slope: Tensor) -> Tensor:
        """ε = y + (1 − s)(ε − x_0)."""
        return torch.add(y, slope, alpha=1 - s)


def _decay(s0: float, s1: float) -> float:
    """e^{−h}, 0 for infinite h."""
    return s1 / s0 * ((1 - s0) / (1 - s1))


@functools.lru_cache(maxsize=4096)
def _polynomial_weights(shares: tuple[float, ...], z: float, line: AbstractLineWeight | None) -> tuple[float, ...]:
    """Weights of values at shares θ_j of the step in −z ∫_0^1 e^{(1−θ)z} P(θ) dθ, P their polynomial.

    For one value it is 1 − e^z. They are found once per grid: the batches of a run share it.
    """
    count = len(shares)
    phis = phis_at(z, count)
    moments = [-z * math.factorial(k) * phis[k + 1] for k in range(count)]
    if count == 2 and line is not None:
        moments[1] = -line(z)
    # The coefficient of θ^k, which the integral up to θ has divided by k + 1.
    integrals = integrated_lagrange(torch.tensor(shares, dtype=torch.float64)).tolist()
    return tuple(sum((k + 1) * row[k] * moments[k] for k in range(count)) for row in integrals)
