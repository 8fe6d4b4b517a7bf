"""Exponential time differencing: Runge–Kutta methods that take the linear part of a semi-linear problem exactly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.semilinear import AbstractPhis, SemilinearProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["ETD1", "ETD2RK", "ETDRK4", "AbstractExponential", "ExponentialTableau"]

Rows = tuple[tuple[float, ...], ...]
PhisByNode = dict[float, AbstractPhis]

_KEPT = 4


@dataclass(frozen=True, eq=False)
class ExponentialTableau:
    """Coefficients of ``U_i = φ_0(c_i z) y + h Σ_k φ_k(c_i z) Σ_j a_ikj g(t + c_j h, U_j)`` with ``z = h A``, and of
    ``y1 = φ_0(z) y + h Σ_k φ_k(z) Σ_j b_kj g(t + c_j h, U_j)``, k from 1.

    Attributes:
        order: order of ``y1`` as h goes to zero; where ``h ‖A‖`` does not, the order can be lower.
        a: for every stage and every k one row, of as many values as there are stages before it.
        b: for every k one row of S values.
        c: nodes, S values, the first 0.
    """

    order: int
    a: tuple[Rows, ...]
    b: Rows
    c: tuple[float, ...]

    def __post_init__(self) -> None:
        # Constant remainders are integrated exactly: φ_1 is weighted by the node, the others by zero.
        for rows, node in zip((*self.a[1:], self.b), (*self.c[1:], 1.0), strict=True):
            for k, row in enumerate(rows):
                assert abs(sum(row) - (0.0 if k else node)) < 1e-14, f"row {row} of φ_{k + 1} at node {node}"

    @cached_property
    def count(self) -> int:
        """The largest k."""
        return len(self.b)


class _PhiCache:
    """φ matrices by node for the last few step sizes.

    Constant steps are a handful of sizes that differ by rounding errors. What is found does not depend on what is kept.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[float, PhisByNode] = OrderedDict()

    def get(self, size: float, find: Callable[[], PhisByNode]) -> PhisByNode:
        if size not in self._found:
            self._found[size] = find()
            if len(self._found) > _KEPT:
                self._found.popitem(last=False)
        self._found.move_to_end(size)
        return self._found[size]


class AbstractExponential(AbstractStepper):
    """One step of an exponential Runge–Kutta method (formula at `ExponentialTableau`).

    Exact for constant remainders, however stiff A is. The φ functions of constant steps are found once, unless samples
    have their own times or gradients with respect to A are recorded; for this the host reads the step size (a wait on
    other devices). Dense output integrates the same polynomial of the remainder, with the linear part exact.

    Source: Cox, Matthews, Exponential time differencing for stiff systems (2002); Krogstad, Generalized integrating
    factor methods for stiff PDEs (2005); Hochbruck, Ostermann, Exponential integrators (2010), section 2.
    """

    tableau: ClassVar[ExponentialTableau]

    def __init_subclass__(cls) -> None:
        """Derive the counts from the tableau."""
        cls.order = cls.tableau.order
        cls.nfe_per_step = len(cls.tableau.c)

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> _PhiCache:
        """Nothing is known yet."""
        return _PhiCache()

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: _PhiCache) -> StepResult:
        """Advance by one step; see the base class.

        Raises:
            TypeError: if the problem is not a `SemilinearProblem`.
        """
        if not isinstance(problem, SemilinearProblem):
            raise TypeError(
                f"{type(self).__name__} got a {type(problem).__name__}; expected a SemilinearProblem, which has the "
                "linear part apart"
            )
        table, dt = self.tableau, t1 - t0
        h = expand_like(dt, y0).to(y0.dtype)
        phis = self._phis(problem, dt, y0, carry)
        slopes = [problem.evaluate_remainder(t0, y0)]
        for node, rows in zip(table.c[1:], table.a[1:], strict=True):
            point = _advance(phis[node], y0, h, _combine(rows, slopes))
            time = t1 if node == 1 else torch.add(t0, dt, alpha=node)
            slopes.append(problem.evaluate_remainder(time, point))
        moments = _combine(table.b, slopes)
        y1 = _advance(phis[1.0], y0, h, moments)
        dense = ExponentialInterpolant(problem, dt, y0, moments)
        return StepResult(y1, None, carry, self.nfe_per_step, dense)

    def _phis(self, problem: SemilinearProblem, dt: Tensor, y0: Tensor, cache: _PhiCache) -> PhisByNode:
        def find() -> PhisByNode:
            nodes = {*self.tableau.c, 1.0} - {0.0}
            return {node: problem.linear.phis(node * dt, self.tableau.count, y0) for node in nodes}

        recorded = dt.requires_grad or (torch.is_grad_enabled() and problem.linear.is_learned)
        if dt.ndim or recorded or torch.compiler.is_compiling():
            return find()
        return cache.get(float(dt), find)


class ETD1(AbstractExponential):
    """Exponential Euler, order 1: exact for constant remainders."""

    tableau = ExponentialTableau(order=1, a=((),), b=((1.0,),), c=(0.0,))


class ETD2RK(AbstractExponential):
    """Cox and Matthews' method of order 2 (2002): exact for remainders that are linear in t."""

    tableau = ExponentialTableau(order=2, a=((), ((1.0,),)), b=((1.0, 0.0), (-1.0, 1.0)), c=(0.0, 1.0))


class ETDRK4(AbstractExponential):
    """Krogstad's method of order 4 (2005); of order 3 at least where the linear part is infinitely stiff."""

    tableau = ExponentialTableau(
        order=4,
        a=(
            (),
            ((1 / 2,),),
            ((1 / 2, 0.0), (-1.0, 1.0)),
            ((1.0, 0.0, 0.0), (-2.0, 0.0, 2.0)),
        ),
        b=((1.0, 0.0, 0.0, 0.0), (-3.0, 2.0, 2.0, -1.0), (4.0, -4.0, -4.0, 4.0)),
        c=(0.0, 1 / 2, 1 / 2, 1.0),
    )


class ExponentialInterpolant(AbstractInterpolant):
    """``y(t0 + θh) = φ_0(θz) y0 + h Σ_k θ^k φ_k(θz) G_k``, ``G_k = Σ_j b_kj g_j``: no evaluation."""

    def __init__(self, problem: SemilinearProblem, dt: Tensor, y0: Tensor, moments: list[Tensor]) -> None:
        """Keep what the extension needs.

        Args:
            problem: the equation, for its linear part.
            dt: step, shape () or (B,), float64.
            y0: state at the start.
            moments: the G_k.
        """
        self._linear, self._dt, self._y0, self._moments = problem.linear, dt, y0, moments

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Advance by ``θh``."""
        y0, moments, dt = self._y0, self._moments, self._dt
        if rows is not None:
            y0, moments = y0.index_select(0, rows), [value.index_select(0, rows) for value in moments]
            dt = dt.index_select(0, rows) if dt.ndim else dt
        phis = self._linear.phis(theta * dt, len(moments), y0)
        h = expand_like(dt, y0).to(y0.dtype)
        scaled = [expand_like(theta**k, y0).to(y0.dtype) * value for k, value in enumerate(moments, 1)]
        return _advance(phis, y0, h, scaled)


def _combine(rows: Rows, slopes: list[Tensor]) -> list[Tensor]:
    combined = []
    for row in rows:
        terms = [slope * weight for weight, slope in zip(row, slopes, strict=True) if weight]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        combined.append(total)
    return combined


def _advance(phis: AbstractPhis, y0: Tensor, h: Tensor, moments: list[Tensor]) -> Tensor:
    total = phis.apply(1, moments[0])
    for k, moment in enumerate(moments[1:], 2):
        total = total + phis.apply(k, moment)
    return torch.addcmul(phis.apply(0, y0), h, total)
