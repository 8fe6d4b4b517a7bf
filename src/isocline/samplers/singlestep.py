"""Exponential Runge–Kutta methods in λ = ln(α/σ): DPM-Solver 1 to 3 and DPM-Solver++(2S)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.randomness import Streams
from isocline.samplers.exponential import AbstractExponentialMethod
from isocline.samplers.log_ratio import (
    AbstractScaledForm,
    DataForm,
    NoiseForm,
    combine,
    log_ratio_at,
    phis_at,
    position_at,
)
from isocline.solvers.explicit import AbstractRungeKutta, Euler, Heun3, Midpoint
from isocline.solvers.exponential import ETD1, ExponentialTableau, Rows
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["ExponentialSinglestep", "dpm_solver", "dpm_solver_plus_plus"]

DPM_SOLVER_2 = ExponentialTableau(order=2, a=((), ((1 / 2,),)), b=((0.0, 1.0),), c=(0.0, 1 / 2))
DPM_SOLVER_3 = ExponentialTableau(
    order=3,
    a=((), ((1 / 3,),), ((2 / 3, 0.0), (-4 / 3, 4 / 3))),
    b=((1.0, 0.0, 0.0), (-3 / 2, 0.0, 3 / 2)),
    c=(0.0, 1 / 3, 2 / 3),
)

# From α = 0 a step is infinitely long in λ, and finite in s: there the classical method of as many evaluations.
_CLASSICAL: dict[int, AbstractRungeKutta] = {1: Euler(), 2: Midpoint(), 3: Heun3()}


class ExponentialSinglestep(AbstractExponentialMethod):
    """An exponential Runge–Kutta method of each order up to ``len(tableaus)``; a step of order p costs p evaluations.

    The last step, to σ = 0 where λ is infinite, is of order 1. What does not suffice for steps of the highest order
    goes into one step of lower order before it. A step from α = 0 is a classical one of the same order in s.

    Args:
        form: the semi-linear form.
        tableaus: of order 1, 2, …, with as many stages.

    Raises:
        ValueError: unless they are that, and the form adds no noise.
    """

    def __init__(self, form: AbstractScaledForm, tableaus: Sequence[ExponentialTableau]) -> None:
        found = [(table.order, len(table.c)) for table in tableaus]
        if not 1 <= len(found) <= len(_CLASSICAL) or found != [(p, p) for p in range(1, len(found) + 1)]:
            raise ValueError(f"tableaus of (order, stages) {found}; expected (1, 1), (2, 2), (3, 3) or fewer")
        if form.is_stochastic:
            raise ValueError("single-step methods add no noise; set eta=0")
        self.order = len(found)
        self.form = form
        self.tableaus = tuple(tableaus)

    def orders(self, calls: int) -> tuple[int, ...]:
        """Return p, …, p, then what is left over, then 1.

        Source: *DPM-Solver*, Lu et al., 2022, §3.4 (DPM-Solver-fast), with the last step of order 1 in every case.
        """
        full, left = divmod(calls - 1, self.order)
        return (*[self.order] * full, *[left] * (left > 0), 1)

    def nodes(self, positions: Sequence[float], orders: Sequence[int]) -> list[float]:
        """Return the positions of all evaluations, in their order.

        Args:
            positions: of `LinearPathVariable`, one more than orders.
            orders: of the steps.
        """
        found = []
        for s0, s1, order in zip(positions, positions[1:], orders, strict=False):
            if s0 < 1 and s1 > 0:
                low, high = log_ratio_at(s0), log_ratio_at(s1)
                found += [s0, *(position_at(low + c * (high - low)) for c in self.tableaus[order - 1].c[1:])]
            else:
                found += [s0 + c * (s1 - s0) for c in _CLASSICAL[order].tableau.c]
        return found

    def stepper(self, positions: Sequence[float], orders: Sequence[int], generator: Streams | None) -> AbstractStepper:
        """See the base class."""
        return _SinglestepStepper(self, positions, orders)


def dpm_solver(order: int) -> ExponentialSinglestep:
    """DPM-Solver-1, 2 or 3, with noise predictions. The first is DDIM.

    Args:
        order: 1, 2 or 3.

    Raises:
        ValueError: if it is another.

    Source: *DPM-Solver*, Lu et al., 2022, Algorithms 1 and 2 (r1 = ½; r1 = ⅓, r2 = ⅔) and Eq. 3.7.
    """
    return ExponentialSinglestep(NoiseForm(), _up_to(order))


def dpm_solver_plus_plus(order: int = 2) -> ExponentialSinglestep:
    """DPM-Solver++(2S), with data predictions: the coefficients of DPM-Solver, the other form.

    Args:
        order: 1, 2 or 3.

    Raises:
        ValueError: if it is another.

    Source: *DPM-Solver++*, Lu et al., 2022, Algorithm 1 with r = ½.
    """
    return ExponentialSinglestep(DataForm(), _up_to(order))


def _up_to(order: int) -> tuple[ExponentialTableau, ...]:
    known = (ETD1.tableau, DPM_SOLVER_2, DPM_SOLVER_3)
    if not 1 <= order <= len(known):
        raise ValueError(f"order={order}; single-step solvers have order 1, 2 or 3")
    return known[:order]


class _SinglestepStepper(AbstractStepper):
    """The method on one grid; the carry is the index of the step."""

    def __init__(self, method: ExponentialSinglestep, positions: Sequence[float], orders: Sequence[int]) -> None:
        self.method, self.positions, self.orders = method, positions, orders
        self.order = method.order
        self.nfe_per_step = method.order

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> int:
        return 0

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: int) -> StepResult:
        s0, s1, order = self.positions[carry], self.positions[carry + 1], self.orders[carry]
        if s0 < 1 and s1 > 0:
            y1 = self._exponential(problem, _Leg(s0, s1, t0), y0, self.method.tableaus[order - 1])
        else:
            classical = _CLASSICAL[order]
            y1 = classical.step(problem, t0, t1, y0, classical.init(problem, t0, y0)).y1
        return StepResult(y1, carry=carry + 1, nfe=order)

    def _exponential(self, problem: AbstractProblem, leg: _Leg, y0: Tensor, table: ExponentialTableau) -> Tensor:
        form = self.method.form
        remainders = [form.remainder(leg.s0, y0, problem.evaluate(leg.t0, y0))]
        for node, rows in zip(table.c[1:], table.a[1:], strict=True):
            s = leg.at(node)
            y = self._advance(leg, node, s, rows, y0, remainders)
            remainders.append(form.remainder(s, y, problem.evaluate(torch.full_like(leg.t0, s), y)))
        return self._advance(leg, 1.0, leg.s1, table.b, y0, remainders)

    def _advance(self, leg: _Leg, node: float, s: float, rows: Rows, y0: Tensor, remainders: list[Tensor]) -> Tensor:
        """The formula of `ExponentialTableau` with h g = −z times the remainder."""
        form = self.method.form
        z = form.rate * leg.h
        phis = phis_at(node * z, len(rows))
        weights = [
            -form.scale(s) * z * math.fsum(phi * row[j] for phi, row in zip(phis[1:], rows, strict=True))
            for j in range(len(remainders))
        ]
        return combine([(form.factor(leg.s0, s), y0), *zip(weights, remainders, strict=True)])


class _Leg(NamedTuple):
    """A step of finite length h in λ.

    Attributes:
        s0: start.
        s1: end.
        t0: start on the state's device.
    """

    s0: float
    s1: float
    t0: Tensor

    @property
    def h(self) -> float:
        return log_ratio_at(self.s1) - log_ratio_at(self.s0)

    def at(self, node: float) -> float:
        """The position a share of the way in λ."""
        return position_at(log_ratio_at(self.s0) + node * self.h)
