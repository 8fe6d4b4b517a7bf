"""Classical stiff problems as batched fields, with their end states."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.solvers import ODEProblem


@dataclasses.dataclass(frozen=True)
class StiffProblem:
    """One initial value problem, ``field(t, y, cond)`` on (B, D).

    Attributes:
        name: as in the literature.
        field: batched.
        y0: start, D values.
        t1: end; the start is at 0.
        end: state at the end, D values.
        cond: one parameter per sample, or None.
        atol: absolute tolerance as a share of rtol, one value or one for each component: where states are tiny.
        source: of the field and of the end state.
    """

    name: str
    field: Callable[[Tensor, Tensor, Any], Tensor]
    y0: tuple[float, ...]
    t1: float
    end: tuple[float, ...]
    cond: float | None = None
    atol: float | tuple[float, ...] = 1e-3
    source: str = ""

    def problem(self, batch: int = 1) -> ODEProblem:
        """The same problem ``batch`` times."""
        start = torch.tensor(self.y0, dtype=torch.float64).repeat(batch, 1)
        cond = None if self.cond is None else torch.full((batch,), self.cond, dtype=torch.float64)
        return ODEProblem(self.field, start, 0.0, self.t1, cond)

    def absolute(self, rtol: float) -> float | Tensor:
        """The absolute tolerance that goes with ``rtol``."""
        if isinstance(self.atol, float):
            return rtol * self.atol
        return rtol * torch.tensor(self.atol, dtype=torch.float64)

    def error(self, y: Tensor) -> float:
        """Largest error of an end state, relative to each component or, below ``atol / rtol``, to that."""
        end = torch.tensor(self.end, dtype=torch.float64)
        floor = torch.as_tensor(self.atol, dtype=torch.float64)
        return float(((y.double() - end).abs() / (end.abs() + floor)).max())


def van_der_pol(t: Tensor, y: Tensor, mu: Tensor) -> Tensor:
    """``x'' = μ (1 - x²) x' - x``."""
    x, v = y.unbind(-1)
    return torch.stack((v, mu * (1 - x * x) * v - x), -1)


def robertson(t: Tensor, y: Tensor, cond: None) -> Tensor:
    """Robertson's three species."""
    a, b, c = y.unbind(-1)
    slow, back, fast = 0.04 * a, 1e4 * b * c, 3e7 * b * b
    first = back - slow
    return torch.stack((first, -first - fast, fast), -1)


def hires(t: Tensor, y: Tensor, cond: None) -> Tensor:
    """Schäfer's eight species."""
    a, b, c, d, e, f, g, h = y.unbind(-1)
    pair = 280.0 * f * h
    last = 1.81 * g
    return torch.stack(
        (
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * (f + g),
            -pair + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
            pair - last,
            last - pair,
        ),
        -1,
    )


def orego(t: Tensor, y: Tensor, cond: None) -> Tensor:
    """The Oregonator."""
    a, b, c = y.unbind(-1)
    return torch.stack(
        (77.27 * (b + a * (1 - 8.375e-6 * a - b)), (c - (1 + a) * b) / 77.27, 0.161 * (a - c)),
        -1,
    )


def e5(t: Tensor, y: Tensor, cond: None) -> Tensor:
    """Enright, Hull and Lindberg's E5."""
    a, b, c, d = y.unbind(-1)
    first, second, third, fourth = 7.89e-10 * a, 1.1e7 * a * c, 1.13e9 * b * c, 1.13e3 * d
    # The third species' slope is the difference of the others', as in the test set: summed term by term, rounding would
    # destroy the invariant y2 = y3 + y4 and with it the end state.
    rise, net = first - third, second - fourth
    return torch.stack((-first - second, rise, rise - net, net), -1)


def brusselator(t: Tensor, y: Tensor, cond: None) -> Tensor:
    """Reaction and diffusion of two species on 50 inner points of [0, 1], u = 1 and v = 3 at both ends."""
    u, v = y.chunk(2, -1)
    rate = 0.02 * 51**2
    left, right = torch.ones_like(u[:, :1]), 3 * torch.ones_like(u[:, :1])
    square = u * u * v
    return torch.cat(
        (
            1 + square - 4 * u + rate * (torch.cat((left, u[:, :-1]), 1) - 2 * u + torch.cat((u[:, 1:], left), 1)),
            3 * u - square + rate * (torch.cat((right, v[:, :-1]), 1) - 2 * v + torch.cat((v[:, 1:], right), 1)),
        ),
        -1,
    )


def prothero_robinson(t: Tensor, y: Tensor, rate: Tensor) -> Tensor:
    """``y' = λ (y - cos t) - sin t``, whose smooth solution is the cosine."""
    return (rate * (y[:, 0] - torch.cos(t)) - torch.sin(t))[:, None]


# Reaction rates of POLLU, and which species each reaction takes (at most two) and gives.
_POLLU_RATES = (
    0.350, 26.6, 12300.0, 0.00086, 0.00082, 15000.0, 0.00013, 24000.0, 16500.0, 9000.0, 0.022, 12000.0, 1.88, 16300.0,
    4800000.0, 0.00035, 0.0175, 1e8, 4.44e11, 1240.0, 2.10, 5.78, 0.0474, 1780.0, 3.12,
)  # fmt: skip
_POLLU_TAKES: tuple[tuple[int, ...], ...] = (
    (1,), (2, 4), (5, 2), (7,), (7,), (7, 6), (9,), (9, 6), (11, 2), (11, 1), (13,), (10, 2), (14,), (1, 6), (3,), (4,),
    (4,), (16,), (16,), (17, 6), (19,), (19,), (1, 4), (19, 1), (20,),
)  # fmt: skip
_POLLU_GIVES: tuple[dict[int, int], ...] = (
    {2: 1, 3: 1}, {1: 1}, {6: 1, 1: 1}, {5: 2, 8: 1}, {8: 1}, {5: 1, 8: 1}, {10: 1, 5: 1, 8: 1}, {11: 1},
    {10: 1, 1: 1, 12: 1}, {13: 1}, {11: 1, 1: 1}, {14: 1, 1: 1}, {5: 1, 7: 1}, {15: 1}, {4: 1}, {16: 1}, {3: 1},
    {6: 2}, {3: 1}, {18: 1, 5: 1}, {2: 1}, {3: 1, 1: 1}, {19: 1}, {20: 1}, {19: 1, 1: 1},
)  # fmt: skip


def _pollu_balance() -> Tensor:
    balance = torch.zeros(25, 20, dtype=torch.float64)
    for reaction, (takes, gives) in enumerate(zip(_POLLU_TAKES, _POLLU_GIVES, strict=True)):
        for species in takes:
            balance[reaction, species - 1] -= 1
        for species, amount in gives.items():
            balance[reaction, species - 1] += amount
    return balance


_POLLU_BALANCE = _pollu_balance()
_POLLU_FIRST = torch.tensor([takes[0] - 1 for takes in _POLLU_TAKES])
_POLLU_SECOND = torch.tensor([takes[1] - 1 if len(takes) > 1 else 20 for takes in _POLLU_TAKES])
_POLLU_RATE = torch.tensor(_POLLU_RATES, dtype=torch.float64)


def pollu(t: Tensor, y: Tensor, cond: None) -> Tensor:
    """25 reactions among 20 species of polluted air."""
    padded = torch.cat((y, torch.ones_like(y[:, :1])), 1)
    return (_POLLU_RATE * padded[:, _POLLU_FIRST] * padded[:, _POLLU_SECOND]) @ _POLLU_BALANCE


_RADAU = "SciPy's Radau with exact Jacobians at rtol 2.5e-13"
_TEST_SET = "Mazzia, Magherini, Test set for initial value problem solvers, release 2.4"

VAN_DER_POL = StiffProblem(
    "Van der Pol, μ = 1000",
    van_der_pol,
    (2.0, 0.0),
    2000.0,
    (1.7061677321749447, -0.0008928097010200218),
    1000.0,
    1e-3,
    _RADAU,
)
ROBERTSON_40 = StiffProblem(
    "Robertson to 40",
    robertson,
    (1.0, 0.0, 0.0),
    40.0,
    (0.7158270687194034, 9.185534764557774e-06, 0.2841637457458292),
    atol=(1e-4, 1e-8, 1e-4),
    source=_RADAU,
)
ROBERTSON_1E5 = StiffProblem(
    "Robertson to 1e5",
    robertson,
    (1.0, 0.0, 0.0),
    1e5,
    (0.017865921142168516, 7.274751468464962e-08, 0.9821340061103139),
    atol=(1e-4, 1e-8, 1e-4),
    source=_RADAU,
)
ROBERTSON_1E11 = StiffProblem(
    "Robertson to 1e11",
    robertson,
    (1.0, 0.0, 0.0),
    1e11,
    (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050),
    atol=(1e-10, 1e-16, 1e-3),
    source=_TEST_SET,
)
HIRES = StiffProblem(
    "HIRES",
    hires,
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
    321.8122,
    (
        0.7371312573325668e-3,
        0.1442485726316185e-3,
        0.5888729740967575e-4,
        0.1175651343283149e-2,
        0.2386356198831331e-2,
        0.6238968252742796e-2,
        0.2849998395185769e-2,
        0.2850001604814231e-2,
    ),
    atol=1e-4,
    source=_TEST_SET,
)
OREGO = StiffProblem(
    "OREGO",
    orego,
    (1.0, 2.0, 3.0),
    360.0,
    (1.000814870318523, 1228.178521549917, 132.0554942846513),
    atol=1e-3,
    source=_TEST_SET,
)
E5 = StiffProblem(
    "E5",
    e5,
    (1.76e-3, 0.0, 0.0, 0.0),
    1e11,
    (0.0, 1.0192582568138e-20, 1.0192582568138e-20, 0.0),
    atol=1e-21,
    source=_RADAU + " for three species, the second being the sum of the last two: all four lose it to rounding",
)
_BRUSSELATOR_END = (
    0.9492411334288, 0.8992814074562, 0.8508359527493, 0.8045088209364, 0.7607769721179, 0.7199852252899,
    0.6823508213127, 0.6479754071084, 0.6168618957657, 0.5889337367134, 0.5640545138287, 0.5420463269772,
    0.5227059741027, 0.5058184476953, 0.4911676459, 0.4785444642981, 0.4677525915598, 0.4586124036033,
    0.4509633618184, 0.4446652938619, 0.4395988881839, 0.4356656782653, 0.4327877374318, 0.4309072543819,
    0.4299861150159, 0.4300055778837, 0.4309660976262, 0.4328873216554, 0.4358082581348, 0.4397875861412,
    0.4449040497536, 0.4512568449445, 0.4589658700963, 0.4681716669422, 0.4790348290379, 0.4917346015637,
    0.5064663439793, 0.5234374840264, 0.5428615705263, 0.564950051065, 0.5899014811599, 0.6178880379894,
    0.6490394850621, 0.6834251232655, 0.7210347542155, 0.761760224387, 0.8053796217529, 0.8515465316057,
    0.8997867808232, 0.9495046927153, 3.064032036333, 3.127030330352, 3.188057137508, 3.246308082131, 3.301136249949,
    3.352062816673, 3.39877552639, 3.441117377428, 3.479068375657, 3.512723224706, 3.542267472758, 3.567954086957,
    3.59008182197, 3.60897619061, 3.624973388245, 3.638407187814, 3.64959860223, 3.658847986194, 3.666429196029,
    3.672585421538, 3.677526329534, 3.681426200904, 3.684422792455, 3.686616705646, 3.688071093476, 3.688811583113,
    3.68882633508, 3.68806620079, 3.686444979792, 3.683839817651, 3.680091825971, 3.675007048808, 3.668357945063,
    3.659885604291, 3.649302962181, 3.636299328523, 3.620546578704, 3.601707380165, 3.579445813877, 3.55344068942,
    3.523401718645, 3.489088484667, 3.45033180263, 3.407056613358, 3.359305003456, 3.307257366101, 3.251249209532,
    3.191780826349, 3.129517109227, 3.065275357912,
)  # fmt: skip
BRUSSELATOR = StiffProblem(
    "Brusselator, 100 unknowns",
    brusselator,
    tuple(1 + math.sin(2 * math.pi * index / 51) for index in range(1, 51)) + (3.0,) * 50,
    10.0,
    _BRUSSELATOR_END,
    source="Hairer, Wanner II, section IV.10, on 50 points; " + _RADAU,
)
PROTHERO_ROBINSON = StiffProblem(
    "Prothero-Robinson, λ = -1e6",
    prothero_robinson,
    (1.0,),
    10.0,
    (math.cos(10.0),),
    -1e6,
    source="Prothero, Robinson (1974); closed form",
)
_POLLU_END = (
    0.05646255480023, 0.1342484130422, 4.139734331099e-09, 0.005523140207484, 2.018977262302e-07, 1.464541863494e-07,
    0.07784249118998, 0.3245075353396, 0.00749401338388, 1.622293157302e-08, 1.135863833257e-08, 0.002230505975721,
    0.0002087162882799, 1.39692101684e-05, 0.008964884856898, 4.35284636933e-18, 0.006899219696263,
    0.0001007803037366, 1.77214651397e-06, 5.682943292316e-05,
)  # fmt: skip
_POLLU_START = {2: 0.2, 4: 0.04, 7: 0.1, 8: 0.3, 9: 0.01, 17: 0.007}
POLLU = StiffProblem(
    "POLLU",
    pollu,
    tuple(_POLLU_START.get(species, 0.0) for species in range(1, 21)),
    60.0,
    _POLLU_END,
    atol=1e-7,
    source=_RADAU + ", all digits of the " + _TEST_SET,
)

STIFF_SET = (
    VAN_DER_POL,
    ROBERTSON_40,
    ROBERTSON_1E5,
    HIRES,
    OREGO,
    BRUSSELATOR,
    PROTHERO_ROBINSON,
    POLLU,
)
LONG_SET = (ROBERTSON_1E11, E5)
