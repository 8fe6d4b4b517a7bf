"""Implicit Runge–Kutta steppers for fixed steps: each is a tableau; the stage equations have their own solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers import implicit_tableaus as tableaus
from isocline.solvers.implicit_tableaus import ImplicitTableau
from isocline.solvers.polynomial import PolynomialInterpolant
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stage_newton import Newton
from isocline.solvers.stage_solvers import AbstractStageSolver, Preparation, StageSolution, StageSystem, Start
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = [
    "SDIRK2",
    "AbstractImplicitRungeKutta",
    "GaussLegendre2",
    "GaussLegendre4",
    "GaussLegendre6",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "RadauIIA3",
    "RadauIIA5",
    "Trapezoid",
]


class AbstractImplicitRungeKutta(AbstractStepper):
    """One step of an implicit Runge–Kutta method (formula at `isocline.solvers.implicit_tableaus.ImplicitTableau`).

    Diagonally implicit methods solve their stages one after another, the others all together, in the displacements
    ``z_i = Y_i - y0``: no slope is evaluated again, which on stiff problems would multiply the solver's error by the
    Lipschitz constant. The evaluations of each sample are those that it needed itself.

    Attributes:
        solver: of the stage equations. A sample that does not converge has failed; there is no exception.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, sections IV.5, IV.6 and IV.8.
    """

    tableau: ClassVar[ImplicitTableau]

    def __init__(self, solver: AbstractStageSolver | None = None) -> None:
        """Take a solver of the stage equations.

        Args:
            solver: `Newton` by default; `FixedPoint` where no Jacobian is wanted and h L is below one.
        """
        self.solver = Newton() if solver is None else solver
        table = self.tableau
        explicit = int(table.first_same_as_last)
        self.order = table.order
        self.init_nfe = max(explicit, self.solver.init_nfe)
        self.nfe_per_step = self.solver.least_nfe(len(table.b) - explicit)

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Preparation:
        """What the solver needs to know of the field, and the slope for methods whose first stage it is."""
        prepared = self.solver.prepare(problem, t0, y0)
        if not self.tableau.first_same_as_last:
            return prepared._replace(slope=None)
        return prepared if prepared.slope is not None else prepared._replace(slope=problem.evaluate(t0, y0))

    def initial_slope(self, carry: Preparation) -> Tensor | None:
        """The slope in the carry, if there is one."""
        return carry.slope

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Preparation) -> StepResult:
        """Advance by one step; see the base class."""
        if self.tableau.is_diagonal:
            return self._step_by_stage(problem, t0, t1, y0, carry)
        table = self.tableau
        h = expand_like(t1 - t0, y0).to(y0.dtype)
        times = tuple(_time(t0, t1, node) for node in table.c)
        start = Start(problem, t0, y0, carry.linearizer)
        solution = self.solver.solve(StageSystem(start, times, y0, h, table.a))
        y1 = _advance(y0, table.end_weights, solution.z)
        return _result(y1, carry, PolynomialInterpolant(y0, solution.z, table.displacement_dense), [solution])

    def _step_by_stage(
        self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Preparation
    ) -> StepResult:
        table, start = self.tableau, Start(problem, t0, y0, carry.linearizer)
        dt = t1 - t0
        h = expand_like(dt, y0).to(y0.dtype)
        rises: list[Tensor] = []
        solutions: list[StageSolution] = []
        point = y0
        if carry.slope is not None:
            rises.append(h * carry.slope)
        for index in range(len(rises), len(table.c)):
            base = _advance(y0, table.a[index][:index], rises)
            diagonal = table.a[index][index]
            time = _time(t0, t1, table.c[index])
            solution = self.solver.solve(StageSystem(start, (time,), base, h, ((diagonal,),)))
            solutions.append(solution)
            rises.append(solution.z[0] / diagonal)
            point = base + solution.z[0]
        y1 = point if table.is_stiffly_accurate else _advance(y0, table.b, rises)
        if table.first_same_as_last:
            # From the stage equation itself: evaluating the field would multiply the solver's error by its stiffness.
            carry = carry._replace(slope=rises[-1] / torch.where(h == 0, 1, h))
        return _result(y1, carry, PolynomialInterpolant(y0, tuple(rises), table.slope_dense), solutions)


class ImplicitEuler(AbstractImplicitRungeKutta):
    """Backward Euler, order 1, L-stable."""

    tableau = tableaus.IMPLICIT_EULER


class ImplicitMidpoint(AbstractImplicitRungeKutta):
    """Implicit midpoint rule, order 2, A-stable and symplectic: Gauss–Legendre with one stage."""

    tableau = tableaus.IMPLICIT_MIDPOINT


class GaussLegendre2(AbstractImplicitRungeKutta):
    """Gauss–Legendre with one stage, order 2: the implicit midpoint rule by its other name."""

    tableau = tableaus.IMPLICIT_MIDPOINT


class GaussLegendre4(AbstractImplicitRungeKutta):
    """Gauss–Legendre with two stages, order 4, A-stable and symplectic (Hammer and Hollingsworth, 1955)."""

    tableau = tableaus.GAUSS_LEGENDRE_4


class GaussLegendre6(AbstractImplicitRungeKutta):
    """Gauss–Legendre with three stages, order 6, A-stable and symplectic (Kuntzmann and Butcher, 1964)."""

    tableau = tableaus.GAUSS_LEGENDRE_6


class Trapezoid(AbstractImplicitRungeKutta):
    """Trapezoidal rule (Crank and Nicolson), order 2, A-stable; transients of infinite stiffness ring undamped."""

    tableau = tableaus.TRAPEZOID


class RadauIIA3(AbstractImplicitRungeKutta):
    """Radau IIA with two stages, order 3, L-stable (Ehle, 1969)."""

    tableau = tableaus.RADAU_IIA_3


class RadauIIA5(AbstractImplicitRungeKutta):
    """Radau IIA with three stages, order 5, L-stable (Ehle, 1969)."""

    tableau = tableaus.RADAU_IIA_5


class SDIRK2(AbstractImplicitRungeKutta):
    """Alexander's singly diagonally implicit method with two stages, order 2, L-stable (1977)."""

    tableau = tableaus.SDIRK2


def _time(t0: Tensor, t1: Tensor, node: float) -> Tensor:
    return t1 if node == 1 else torch.add(t0, t1 - t0, alpha=node)


def _advance(y0: Tensor, weights: Sequence[float], rises: Sequence[Tensor]) -> Tensor:
    for weight, rise in zip(weights, rises, strict=True):
        if weight:
            y0 = torch.add(y0, rise, alpha=weight)
    return y0


def _result(y1: Tensor, carry: Preparation, dense: PolynomialInterpolant, solutions: list[StageSolution]) -> StepResult:
    nfe, failed, jacobians, factorizations = solutions[0][1:]
    for other in solutions[1:]:
        nfe, jacobians = nfe + other.nfe, jacobians + other.jacobians
        factorizations = factorizations + other.factorizations
        if failed is not None and other.failed is not None:
            failed = failed | other.failed
    return StepResult(y1, None, carry, nfe, dense, failed, jacobians=jacobians, factorizations=factorizations)
