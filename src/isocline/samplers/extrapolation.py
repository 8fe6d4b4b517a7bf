"""How past predictions of the noise are weighted in the integral ∫ ε dρ over the next step, ρ = σ/α.

A rule gives, for every step, the share of each known ε in the mean noise of the step; the shares add up to one.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess
from isocline.samplers.noise_step import noise_ratio
from isocline.solvers.kept import kept
from isocline.solvers.polynomial import integrated_lagrange

__all__ = [
    "AbstractExtrapolation",
    "AbstractPolynomialExtrapolation",
    "EqualSteps",
    "PolynomialInLogRatio",
    "PolynomialInRatio",
    "PolynomialInTime",
    "lagrange",
]

# Gauss–Legendre points for one step: rounding error is reached far below it, see `_quadrature`.
_POINTS = 64


class AbstractExtrapolation(ABC):
    """Gives the shares of the noises known at the beginning of a step."""

    @abstractmethod
    def shares(self, process: GaussianProcess, known: Sequence[float], end: float) -> tuple[float, ...]:
        """Return the shares, of at most as many noises as are known; their sum is 1.

        Args:
            process: gives the meaning of times.
            known: positions s of `LinearPathVariable` at which ε is known, newest (the step's start) first.
            end: position at which the step ends.
        """


class EqualSteps(AbstractExtrapolation):
    """Adams' weights for steps of one length, whatever the steps are: 3/2, −1/2; 23/12, −16/12, 5/12; …

    Source: *Pseudo Numerical Methods for Diffusion Models on Manifolds*, Liu et al., 2022, Eq. 12; *Fast Sampling of
    Diffusion Models with Exponential Integrator*, Zhang & Chen, 2023, App. B (iPNDM).
    """

    def shares(self, process: GaussianProcess, known: Sequence[float], end: float) -> tuple[float, ...]:
        """See the base class."""
        return _adams(len(known))


class AbstractPolynomialExtrapolation(AbstractExtrapolation):
    """ε is taken as the polynomial in some coordinate c(ρ) through the known values, integrated over the actual step.

    A known value where the coordinate is infinite has no share, and a step whose end is infinitely far is of order 1.

    Source: *Fast Sampling of Diffusion Models with Exponential Integrator*, Zhang & Chen, 2023, Eq. 15.
    """

    @abstractmethod
    def coordinate(self, process: GaussianProcess, ratio: Tensor) -> Tensor:
        """Return c at ρ = σ/α, float64, shape of ratio."""

    def shares(self, process: GaussianProcess, known: Sequence[float], end: float) -> tuple[float, ...]:
        """See the base class."""
        ratios = torch.tensor([noise_ratio(s) for s in (*known, end)], dtype=torch.float64)
        coordinates = self.coordinate(process, ratios)
        finite = coordinates.isfinite()
        if math.isinf(noise_ratio(known[0])) or not bool(finite[0] & finite[-1]):
            return (1.0,)
        points, weights = _quadrature(float(ratios[0]), float(ratios[-1]))
        basis = lagrange(coordinates[:-1][finite[:-1]], self.coordinate(process, points))
        shares = iter((basis @ weights).tolist())
        return tuple(next(shares) if has else 0.0 for has in finite[:-1].tolist())


class PolynomialInTime(AbstractPolynomialExtrapolation):
    """c = t: tAB-DEIS."""

    def coordinate(self, process: GaussianProcess, ratio: Tensor) -> Tensor:
        """Return t at which σ/α is as given, at least 0."""
        return process.schedule.inverse_log_ratio(-ratio.log()).clamp(min=0.0)


class PolynomialInRatio(AbstractPolynomialExtrapolation):
    """c = σ/α: ρAB-DEIS, which is Adams–Bashforth for dy/dρ = ε (iPNDM with weights for the actual steps)."""

    def coordinate(self, process: GaussianProcess, ratio: Tensor) -> Tensor:
        """Return σ/α."""
        return ratio


class PolynomialInLogRatio(AbstractPolynomialExtrapolation):
    """c = ln(σ/α) = −λ, the choice of some libraries' DEIS; the last step, to infinite λ, is of order 1."""

    def coordinate(self, process: GaussianProcess, ratio: Tensor) -> Tensor:
        """Return ln(σ/α)."""
        return ratio.log()


def _quadrature(start: float, end: float) -> tuple[Tensor, Tensor]:
    """Points ρ between start and end with weights that sum to 1.

    Gauss–Legendre in u = arsinh ρ, in which t and ln ρ vary slowly: like ρ near data, like ln ρ near noise. A step from
    ρ = 150 to 0 is half as long in u as the distance of t's nearest singularity at ρ = ±i asks for.
    """
    nodes, weights = _gauss_legendre()
    first, last = math.asinh(start), math.asinh(end)
    u = (first + last) / 2 + (last - first) / 2 * nodes
    mass = weights * u.cosh()
    return u.sinh(), mass / mass.sum()


@functools.lru_cache
def _adams(order: int) -> tuple[float, ...]:
    return tuple(integrated_lagrange(-torch.arange(order, dtype=torch.float64)).sum(-1).tolist())


@kept(maxsize=1)
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def lagrange(nodes: Tensor, points: Tensor) -> Tensor:
    """Lagrange basis over ``nodes (S,)`` at ``points (P,)``: shape (S, P)."""
    rows = []
    for place in range(len(nodes)):
        others = torch.cat([nodes[:place], nodes[place + 1 :]])
        rows.append(((points[None] - others[:, None]) / (nodes[place] - others)[:, None]).prod(0))
    return torch.stack(rows)
