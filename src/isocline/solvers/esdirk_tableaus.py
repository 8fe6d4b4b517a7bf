"""Butcher tableaus of ESDIRK methods: an explicit first stage, then implicit equations one by one with equal γ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

__all__ = ["KENCARP4", "KVAERNO3", "KVAERNO5", "TR_BDF2", "ESDIRKTableau"]

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class ESDIRKTableau:
    """Coefficients of ``Y_i = y + h Σ_{j<i} a_ij k_j + h γ k_i`` with ``k_i = f(t + c_i h, Y_i)`` and ``Y_1 = y``.

    The last stage is the end of the step (stiffly accurate), and its slope is the next step's first.

    Attributes:
        order: order of ``y1``.
        error_order: order of the embedded method plus one.
        gamma: γ.
        a: strictly lower triangle by rows, the first row empty.
        c: nodes.
        error: ``b - b̂`` for the embedded weights ``b̂``, S values.
        filtered: whether the error estimate is multiplied by ``(I - hγJ)⁻¹``: where the embedded method is not stable
            at infinity, the estimate grows with the stiffness without it.
    """

    order: int
    error_order: int
    gamma: float
    a: Rows
    c: tuple[float, ...]
    error: tuple[float, ...]
    filtered: bool = False

    def __post_init__(self) -> None:
        assert len(self.a) == len(self.c) == len(self.error)
        for row, node in zip(self.a[1:], self.c[1:], strict=True):
            assert abs(sum(row) + self.gamma - node) < 1e-14, f"row {row} does not sum to its node {node}"
        assert self.c[0] == 0
        assert self.c[-1] == 1
        assert abs(sum(self.error)) < 1e-14

    @cached_property
    def guesses(self) -> Rows:
        """For each stage from the second on, its slope predicted from those before: weights of k_1 … k_{i-1}.

        The polynomial through the slopes at the last three distinct nodes, continued to the stage's node.
        """
        return tuple(_extrapolation(self.c[:stage], self.c[stage]) for stage in range(1, len(self.c)))


def _extrapolation(nodes: tuple[float, ...], at: float) -> tuple[float, ...]:
    weights = [0.0] * len(nodes)
    chosen: list[int] = []
    for place in reversed(range(len(nodes))):
        if len(chosen) < 3 and all(abs(nodes[place] - nodes[other]) > 1e-9 for other in chosen):
            chosen.append(place)
    for place in chosen:
        others = [nodes[other] for other in chosen if other != place]
        weights[place] = math.prod((at - other) / (nodes[place] - other) for other in others)
    return tuple(weights)


def _difference(last: tuple[float, ...], embedded: tuple[float, ...], gamma: float) -> tuple[float, ...]:
    return tuple(b - other for b, other in zip((*last, gamma), embedded, strict=True))


def _kvaerno3() -> ESDIRKTableau:
    # γ is the root 0.43586652… of 6 γ³ - 18 γ² + 9 γ - 1, for which the method is L-stable.
    g = 0.4358665215
    for _ in range(3):
        g -= (6 * g**3 - 18 * g**2 + 9 * g - 1) / (18 * g**2 - 36 * g + 9)
    third = ((-4 * g * g + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g))
    last = ((6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g * g + 6 * g - 1) / (6 * g - 3))
    return ESDIRKTableau(
        order=3,
        error_order=3,
        gamma=g,
        a=((), (g,), third, last),
        c=(0.0, 2 * g, 1.0, 1.0),
        error=_difference(last, (*third, g, 0.0), g),
    )


def _tr_bdf2() -> ESDIRKTableau:
    root = math.sqrt(2)
    g, w = 1 - root / 2, root / 4
    last = (w, w)
    return ESDIRKTableau(
        order=2,
        error_order=3,
        gamma=g,
        a=((), (g,), last),
        c=(0.0, 2 * g, 1.0),
        error=_difference(last, ((1 - w) / 3, (3 * w + 1) / 3, g / 3), g),
        filtered=True,
    )


# Kværnø (2004), Singly diagonally implicit Runge–Kutta methods with an explicit first stage, BIT 44, ESDIRK 3/2 a with
# the stiffly accurate embedded method of its third stage.
KVAERNO3 = _kvaerno3()

# Bank et al. (1985), Transient simulation of silicon devices and circuits; error estimate of order 3 and its filter:
# Hosea, Shampine (1996), Analysis and implementation of TR-BDF2.
TR_BDF2 = _tr_bdf2()

# Kværnø (2004), ESDIRK 5/4; the embedded method is the sixth stage.
_KVAERNO5_SIXTH = (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676)
_KVAERNO5_LAST = (
    0.13659751177640291,
    0.0,
    -0.05496908796538376,
    -0.04118626728321046,
    0.62993304899016403,
    0.06962479448202728,
)
KVAERNO5 = ESDIRKTableau(
    order=5,
    error_order=5,
    gamma=0.26,
    a=(
        (),
        (0.26,),
        (0.13, 0.84033320996790809),
        (0.22371961478320505, 0.47675532319799699, -0.06470895363112615),
        (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998),
        _KVAERNO5_SIXTH,
        _KVAERNO5_LAST,
    ),
    c=(0.0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1.0, 1.0),
    error=_difference(_KVAERNO5_LAST, (*_KVAERNO5_SIXTH, 0.26, 0.0), 0.26),
)

# Kennedy, Carpenter (2003), Additive Runge–Kutta schemes for convection–diffusion–reaction equations, the implicit part
# of ARK4(3)6L[2]SA.
_KENCARP4_LAST = (82889 / 524892, 0.0, 15625 / 83664, 69875 / 102672, -2260 / 8211)
KENCARP4 = ESDIRKTableau(
    order=4,
    error_order=4,
    gamma=1 / 4,
    a=(
        (),
        (1 / 4,),
        (8611 / 62500, -1743 / 31250),
        (5012029 / 34652500, -654441 / 2922500, 174375 / 388108),
        (15267082809 / 155376265600, -71443401 / 120774400, 730878875 / 902184768, 2285395 / 8070912),
        _KENCARP4_LAST,
    ),
    c=(0.0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1.0),
    error=_difference(
        _KENCARP4_LAST,
        (
            4586570599 / 29645900160,
            0.0,
            178811875 / 945068544,
            814220225 / 1159782912,
            -3700637 / 11593932,
            61727 / 225920,
        ),
        1 / 4,
    ),
    filtered=True,
)
