"""The protocol of a stepper: one step of one method, on the whole batch.

A new method is a subclass with `step`; a Runge–Kutta method is only a tableau (see `isocline.solvers.explicit`). The
loop owns step sizes, acceptance, saving and statistics; a stepper owns none of these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

from torch import Tensor

from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.problem import AbstractProblem

__all__ = ["AbstractStepper", "StepResult"]


class StepResult(NamedTuple):
    """One trial step.

    Attributes:
        y1: state at the end of the step, shape (B, *event).
        error: local error estimate of y's shape, or None where the method has none.
        carry: what the next step needs (see `isocline.solvers.rows` for the structures allowed).
        nfe: evaluations made for each sample in this step: an int, or an int64 tensor of shape (B,).
        dense: states within the step, or None.
        failed: bool, shape (B,), True for samples whose step the method declares invalid (a probability above one, a
            Newton iteration that does not converge); None if it never does.
        error_order: order of ``error`` where it differs from the stepper's (a method that switches), int64 of shape
            (B,); None if it does not.
        jacobians: Jacobians evaluated for each sample, like ``nfe``; their field calls are in ``nfe`` as well.
        factorizations: matrices factorized for each sample, like ``nfe``.
    """

    y1: Tensor
    error: Tensor | None = None
    carry: Any = None
    nfe: int | Tensor = 1
    dense: AbstractInterpolant | None = None
    failed: Tensor | None = None
    error_order: Tensor | None = None
    jacobians: int | Tensor = 0
    factorizations: int | Tensor = 0


class AbstractStepper(ABC):
    """One step of a method.

    Attributes:
        order: order of convergence of the end point.
        error_order: order of ``error`` in the step (the embedded method's order plus one); None without an estimate.
        nfe_per_step: evaluations per step for one sample, so that N steps cost ``init_nfe + N * nfe_per_step``.
        init_nfe: evaluations that `init` makes.
        compiles: whether `isocline.solvers.CompiledStep` can trace a step: no iteration that ends by its numbers.
    """

    order: float = 1.0
    error_order: int | None = None
    nfe_per_step: int = 1
    init_nfe: int = 0
    compiles: bool = True

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """Prepare the carry of the first step; None by default.

        Args:
            problem: the equation.
            t0: start, shape () or (B,), float64.
            y0: state there.
        """
        return None

    def evaluations(self, steps: int) -> int:
        """Evaluations that the first ``steps`` steps cost a sample, those that a multistep method starts with included.

        Args:
            steps: number of steps on a grid.
        """
        return self.init_nfe + steps * self.nfe_per_step

    def initial_slope(self, carry: Any) -> Tensor | None:
        """The slope at the start if `init` evaluated it: the first step size is then found with one call less."""
        return None

    def for_tolerance(self, rtol: float, atol: float | Tensor) -> Self:
        """The same method for an adaptive solve: one that iterates is as exact as the tolerances ask for.

        Args:
            rtol: relative tolerance.
            atol: absolute tolerance, a number or one value for each component of a sample.
        """
        return self

    def for_one_solve(self) -> Self:
        """The same method for one solve that is done with a step's dense output when it takes the next step.

        It may keep buffers from step to step, which it must not where dense output is kept.
        """
        return self

    @abstractmethod
    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance every sample from ``t0`` to ``t1``.

        Args:
            problem: the equation.
            t0: shape () on a shared grid, (B,) where samples have their own times; float64.
            t1: likewise.
            y0: states at ``t0``, shape (B, *event).
            carry: from `init` or the previous accepted step.
        """
