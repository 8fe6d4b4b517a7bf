"""Butcher tableaus of implicit Runge–Kutta methods for fixed steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from isocline.solvers.dense import hermite_weights
from isocline.solvers.polynomial import integrated_lagrange

__all__ = [
    "GAUSS_LEGENDRE_4",
    "GAUSS_LEGENDRE_6",
    "IMPLICIT_EULER",
    "IMPLICIT_MIDPOINT",
    "RADAU_IIA_3",
    "RADAU_IIA_5",
    "SDIRK2",
    "TRAPEZOID",
    "ImplicitTableau",
]

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class ImplicitTableau:
    """Coefficients of ``Y_i = y + h Σ_j a_ij f(t + c_j h, Y_j)``, ``y1 = y + h Σ_i b_i f(t + c_i h, Y_i)``.

    Attributes:
        order: order of ``y1``.
        a: S rows of S values. A zero on the diagonal is allowed in the first row only, which is then all zero.
        b: weights, S values.
        c: nodes, S distinct values.
    """

    order: int
    a: Rows
    b: tuple[float, ...]
    c: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.a) == len(self.b) == len(self.c)
        for row, node in zip(self.a, self.c, strict=True):
            assert len(row) == len(self.c)
            assert abs(sum(row) - node) < 1e-14, f"row {row} does not sum to its node {node}"
        assert abs(sum(self.b) - 1) < 1e-14
        assert not any(self.a[0]) or all(row[index] for index, row in enumerate(self.a))

    @cached_property
    def is_diagonal(self) -> bool:
        """Whether each stage depends on itself and earlier ones only, so that stages are solved one after another."""
        return not any(value for index, row in enumerate(self.a) for value in row[index + 1 :])

    @cached_property
    def is_stiffly_accurate(self) -> bool:
        """Whether the last stage is the state at the end of the step."""
        return self.a[-1] == self.b

    @cached_property
    def first_same_as_last(self) -> bool:
        """Whether the first stage is the slope at the start, which was the last stage of the step before."""
        return not any(self.a[0]) and self.is_stiffly_accurate

    @cached_property
    def end_weights(self) -> tuple[float, ...]:
        """``d = A⁻ᵀ b``: with displacements ``z_i = Y_i - y`` the end is ``y1 = y + Σ_i d_i z_i``, without slopes.

        Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8.
        """
        if self.is_stiffly_accurate:
            return (0.0,) * (len(self.b) - 1) + (1.0,)
        a, b = torch.tensor(self.a, dtype=torch.float64), torch.tensor(self.b, dtype=torch.float64)
        return tuple(torch.linalg.solve(a.T, b).tolist())

    @cached_property
    def slope_dense(self) -> Tensor:
        """Dense output in the scaled slopes ``h k_i``, float64, shape (S, P): coefficients of θ, θ², ….

        The collocation polynomial, or the cubic through both ends where both slopes are stages.
        """
        if self.first_same_as_last:
            return torch.tensor(hermite_weights(self.b), dtype=torch.float64)
        return integrated_lagrange(torch.tensor(self.c, dtype=torch.float64))

    @cached_property
    def displacement_dense(self) -> Tensor:
        """Dense output in the displacements ``z_i``, float64, shape (S, P)."""
        return torch.linalg.solve(torch.tensor(self.a, dtype=torch.float64).T, self.slope_dense)


IMPLICIT_EULER = ImplicitTableau(order=1, a=((1.0,),), b=(1.0,), c=(1.0,))
IMPLICIT_MIDPOINT = ImplicitTableau(order=2, a=((1 / 2,),), b=(1.0,), c=(1 / 2,))
TRAPEZOID = ImplicitTableau(order=2, a=((0.0, 0.0), (1 / 2, 1 / 2)), b=(1 / 2, 1 / 2), c=(0.0, 1.0))

# Collocation at the zeros of the shifted Legendre polynomials: Hairer, Wanner II, section IV.5, Tables 5.1 and 5.2.
_R3, _R6, _R15 = math.sqrt(3), math.sqrt(6), math.sqrt(15)
GAUSS_LEGENDRE_4 = ImplicitTableau(
    order=4,
    a=((1 / 4, 1 / 4 - _R3 / 6), (1 / 4 + _R3 / 6, 1 / 4)),
    b=(1 / 2, 1 / 2),
    c=(1 / 2 - _R3 / 6, 1 / 2 + _R3 / 6),
)
GAUSS_LEGENDRE_6 = ImplicitTableau(
    order=6,
    a=(
        (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
        (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
        (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
    ),
    b=(5 / 18, 4 / 9, 5 / 18),
    c=(1 / 2 - _R15 / 10, 1 / 2, 1 / 2 + _R15 / 10),
)

# Collocation at the zeros of the derivative of order s-1 of x^(s-1) (x - 1)^s: the same section, Tables 5.5 and 5.6.
RADAU_IIA_3 = ImplicitTableau(order=3, a=((5 / 12, -1 / 12), (3 / 4, 1 / 4)), b=(3 / 4, 1 / 4), c=(1 / 3, 1.0))
_RADAU_B = ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9)
RADAU_IIA_5 = ImplicitTableau(
    order=5,
    a=(
        ((88 - 7 * _R6) / 360, (296 - 169 * _R6) / 1800, (-2 + 3 * _R6) / 225),
        ((296 + 169 * _R6) / 1800, (88 + 7 * _R6) / 360, (-2 - 3 * _R6) / 225),
        _RADAU_B,
    ),
    b=_RADAU_B,
    c=((4 - _R6) / 10, (4 + _R6) / 10, 1.0),
)

# Alexander (1977), Diagonally implicit Runge–Kutta methods for stiff ODEs: of the two L-stable ones, the more accurate.
_GAMMA = 1 - math.sqrt(2) / 2
SDIRK2 = ImplicitTableau(order=2, a=((_GAMMA, 0.0), (1 - _GAMMA, _GAMMA)), b=(1 - _GAMMA, _GAMMA), c=(_GAMMA, 1.0))
