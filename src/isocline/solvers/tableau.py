"""Butcher tableaus of explicit Runge–Kutta methods, with error weights and dense output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from isocline.solvers import dop853
from isocline.solvers.dense import hermite_weights

__all__ = [
    "BOSH3",
    "DOPRI5",
    "DOPRI8",
    "EULER",
    "FEHLBERG2",
    "HEUN",
    "HEUN3",
    "MIDPOINT",
    "RALSTON",
    "RK4",
    "RK38",
    "TSIT5",
    "Tableau",
]


@dataclass(frozen=True, eq=False)
class Tableau:
    """Coefficients of ``k_i = f(t + c_i h, y + h Σ_j a_ij k_j)``, ``y1 = y + h Σ_i b_i k_i``.

    Attributes:
        order: order of ``y1``.
        a: strictly lower triangle by rows, the first row empty.
        b: weights, S values.
        c: nodes, S values.
        error: ``b - b̂`` for the embedded weights ``b̂``, or None.
        error_order: order of the embedded method plus one.
        dense: S rows of coefficients of θ, θ², …, or None where the slope at the end of the step is not a stage. With
            extra stages, S + X rows.
        second_error: second set of error weights e', or None. The estimate is then ``e ‖e‖ / sqrt(‖e‖² + 0.01 ‖e'‖²)``.
        extra_a: rows of X more stages that only the dense output needs.
        extra_c: their nodes.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    error: tuple[float, ...] | None = None
    error_order: int | None = None
    dense: tuple[tuple[float, ...], ...] | None = None
    second_error: tuple[float, ...] | None = None
    extra_a: tuple[tuple[float, ...], ...] = ()
    extra_c: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.a) == len(self.b) == len(self.c)
        for row, node in zip(self.a + self.extra_a, self.c + self.extra_c, strict=True):
            assert abs(sum(row) - node) < 1e-12, f"row {row} does not sum to its node {node}"
        assert abs(sum(self.b) - 1) < 1e-12

    @cached_property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the slope at ``y1``, so that the next step need not evaluate its first."""
        return len(self.b) > 1 and self.c[-1] == 1 and self.a[-1] == self.b[:-1] and self.b[-1] == 0


def _difference(b: tuple[float, ...], embedded: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(weight - other for weight, other in zip(b, embedded, strict=True))


EULER = Tableau(order=1, a=((),), b=(1.0,), c=(0.0,))

# The three two-stage methods estimate their error against Euler's step.
MIDPOINT = Tableau(
    order=2, a=((), (1 / 2,)), b=(0.0, 1.0), c=(0.0, 1 / 2), error=_difference((0.0, 1.0), (1.0, 0.0)), error_order=2
)
HEUN = Tableau(
    order=2,
    a=((), (1.0,)),
    b=(1 / 2, 1 / 2),
    c=(0.0, 1.0),
    error=_difference((1 / 2, 1 / 2), (1.0, 0.0)),
    error_order=2,
)
# Ralston (1962), Runge–Kutta methods with minimum error bounds.
RALSTON = Tableau(
    order=2,
    a=((), (2 / 3,)),
    b=(1 / 4, 3 / 4),
    c=(0.0, 2 / 3),
    error=_difference((1 / 4, 3 / 4), (1.0, 0.0)),
    error_order=2,
)
# Fehlberg (1969), RK1(2): the state is advanced with order 2, the estimate compares with order 1.
FEHLBERG2 = Tableau(
    order=2,
    a=((), (1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    c=(0.0, 1 / 2, 1.0),
    error=_difference((1 / 512, 255 / 256, 1 / 512), (1 / 256, 255 / 256, 0.0)),
    error_order=2,
)
# Heun (1900).
HEUN3 = Tableau(order=3, a=((), (1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4), c=(0.0, 1 / 3, 2 / 3))
RK4 = Tableau(
    order=4,
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.0, 1 / 2, 1 / 2, 1.0),
)
# Kutta (1901), the 3/8 rule.
RK38 = Tableau(
    order=4,
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    c=(0.0, 1 / 3, 2 / 3, 1.0),
)

# Bogacki, Shampine (1989), A 3(2) pair of Runge–Kutta formulas.
_BOSH3_B = (2 / 9, 1 / 3, 4 / 9, 0.0)
BOSH3 = Tableau(
    order=3,
    a=((), (1 / 2,), (0.0, 3 / 4), _BOSH3_B[:-1]),
    b=_BOSH3_B,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    error=_difference(_BOSH3_B, (7 / 24, 1 / 4, 1 / 3, 1 / 8)),
    error_order=3,
    dense=hermite_weights(_BOSH3_B),
)

# Dormand, Prince (1980), A family of embedded Runge–Kutta formulae, RK5(4)7M. The continuous extension of order 4 adds
# θ²(1 - θ)² Σ d_i k_i to the cubic: Hairer, Nørsett, Wanner I, section II.6, and Shampine (1986).
_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_DOPRI5_D = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)
DOPRI5 = Tableau(
    order=5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B[:-1],
    ),
    b=_DOPRI5_B,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    error=_difference(_DOPRI5_B, (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)),
    error_order=5,
    dense=tuple(
        tuple(value + d * extra for value, extra in zip(row, (0.0, 1.0, -2.0, 1.0), strict=True))
        for row, d in zip(hermite_weights(_DOPRI5_B), _DOPRI5_D, strict=True)
    ),
)

# Tsitouras (2011), Runge–Kutta pairs of order 5(4) satisfying only the first column simplifying assumption.
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)
TSIT5 = Tableau(
    order=5,
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        _TSIT5_B[:-1],
    ),
    b=_TSIT5_B,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    error_order=5,
    dense=(
        (1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216),
        (0.0, 0.13169999999999998, -0.2234, 0.1017),
        (0.0, 3.9302962368947516, -5.941033872131505, 2.490627285651253),
        (0.0, -12.411077166933676, 30.33818863028232, -16.548102889244902),
        (0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928),
        (0.0, -27.896526289197286, 65.09189467479366, -34.87065786149661),
        (0.0, 1.5, -4.0, 2.5),
    ),
)


def _dop853_dense() -> tuple[tuple[float, ...], ...]:
    """Coefficients of θ … θ⁷ of the polynomial of Hairer, Nørsett, Wanner I, section II.6, Eq. 6.36, by stages.

    In nested form it is ``θ (F0 + (1-θ) (F1 + θ (F2 + (1-θ) (F3 + θ (F4 + (1-θ) (F5 + θ F6))))))`` with
    ``F0 = y1 - y0``, ``F1 = h k_1 - F0``, ``F2 = 2 F0 - h (k_1 + k_13)`` and four combinations of all stages.
    """
    stages = len(dop853.B) + len(dop853.EXTRA_C)
    rise = dop853.B + (0.0,) * (stages - len(dop853.B))
    first = tuple(float(i == 0) for i in range(stages))
    last = tuple(float(i == len(dop853.B) - 1) for i in range(stages))
    terms = [
        rise,
        tuple(f - r for f, r in zip(first, rise, strict=True)),
        tuple(2 * r - f - e for r, f, e in zip(rise, first, last, strict=True)),
        *dop853.CORRECTION,
    ]
    basis, polynomial = [], [0.0, 1.0]
    for index in range(len(terms)):
        basis.append(polynomial + [0.0] * (len(terms) + 1 - len(polynomial)))
        shifted = [0.0, *polynomial]
        polynomial = shifted if index % 2 else [p - s for p, s in zip([*polynomial, 0.0], shifted, strict=True)]
    return tuple(
        tuple(sum(term[stage] * row[power] for term, row in zip(terms, basis, strict=True)) for power in range(1, 8))
        for stage in range(stages)
    )


DOPRI8 = Tableau(
    order=8,
    a=dop853.A,
    b=dop853.B,
    c=dop853.C,
    error=dop853.ERROR_5,
    second_error=dop853.ERROR_3,
    error_order=8,
    dense=_dop853_dense(),
    extra_a=dop853.EXTRA_A,
    extra_c=dop853.EXTRA_C,
)
