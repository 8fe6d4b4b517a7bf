"""Explicit Runge–Kutta steppers: each is a tableau."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers import tableau
from isocline.solvers.dense import AbstractInterpolant, HermiteInterpolant, StageInterpolant
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.tableau import Tableau

__all__ = ["RK4", "AbstractRungeKutta", "Bosh3", "Dopri5", "Euler", "Heun", "Midpoint", "Ralston", "Tsit5"]


class AbstractRungeKutta(AbstractStepper):
    """One step of an explicit Runge–Kutta method (formula at `isocline.solvers.tableau.Tableau`).

    Sums over stages are written out term by term, never as a matrix product, so that a sample's result does not depend
    on the batch it is computed in.
    """

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls) -> None:
        """Derive the counts from the tableau."""
        table = cls.tableau
        cls.order = table.order
        cls.error_order = table.error_order
        cls.init_nfe = int(table.first_same_as_last)
        cls.nfe_per_step = len(table.b) - cls.init_nfe

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor | None:
        """The slope at the start for methods whose last stage is the next step's first; otherwise None."""
        return problem.evaluate(t0, y0) if self.tableau.first_same_as_last else None

    def initial_slope(self, carry: Tensor | None) -> Tensor | None:
        """The carry."""
        return carry

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Tensor | None) -> StepResult:
        """Advance by one step; see the base class."""
        table = self.tableau
        dt = t1 - t0
        h = expand_like(dt, y0).to(y0.dtype)
        stages = [problem.evaluate(t0, y0) if carry is None else carry]
        point = y0
        for node, row in zip(table.c[1:], table.a[1:], strict=True):
            point = _advance(y0, h, row, stages)
            time = t1 if node == 1 else torch.add(t0, dt, alpha=node)
            stages.append(problem.evaluate(time, point))
        same = table.first_same_as_last
        y1 = point if same else _advance(y0, h, table.b, stages)
        error = None if table.error is None else h * _weighted(table.error, stages)
        dense: AbstractInterpolant
        if table.dense is None:
            dense = HermiteInterpolant(problem, t1, y0, y1, h, stages[0])
        else:
            dense = StageInterpolant(y0, h, tuple(stages), table.dense)
        return StepResult(y1, error, stages[-1] if same else None, self.nfe_per_step, dense)


class Euler(AbstractRungeKutta):
    """Forward Euler, order 1."""

    tableau = tableau.EULER


class Midpoint(AbstractRungeKutta):
    """Explicit midpoint rule, order 2, with Euler's step as error estimate."""

    tableau = tableau.MIDPOINT


class Heun(AbstractRungeKutta):
    """Explicit trapezoidal rule, order 2, with Euler's step as error estimate."""

    tableau = tableau.HEUN


class Ralston(AbstractRungeKutta):
    """Second-order method of smallest error bound (Ralston, 1962), with Euler's step as error estimate."""

    tableau = tableau.RALSTON


class RK4(AbstractRungeKutta):
    """The classical method of order 4 (Kutta, 1901); no error estimate."""

    tableau = tableau.RK4


class Bosh3(AbstractRungeKutta):
    """Bogacki and Shampine's 3(2) pair (1989); dense output of order 3."""

    tableau = tableau.BOSH3


class Dopri5(AbstractRungeKutta):
    """Dormand and Prince's 5(4) pair (1980); dense output of order 4."""

    tableau = tableau.DOPRI5


class Tsit5(AbstractRungeKutta):
    """Tsitouras' 5(4) pair (2011), usually the best explicit choice; dense output of order 4."""

    tableau = tableau.TSIT5


def _weighted(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=True):
        if weight == 0:
            continue
        if total is not None:
            total = torch.add(total, stage, alpha=weight)
            continue
        total = stage if weight == 1 else stage * weight
    assert total is not None
    return total


def _advance(y0: Tensor, h: Tensor, weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    return torch.addcmul(y0, h, _weighted(weights, stages))
