"""Steps that ask their field about the inside of themselves only: for fields that jump where steps end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from isocline.solvers.problem import AbstractProblem, ODEProblem, VectorField
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["InsideSteps", "StepperWrapper"]


class _Within(NamedTuple):
    """What the field is given, and the times that it may be asked about, of shape () or (B,)."""

    cond: Any
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class _Clamped:
    field: VectorField

    def __call__(self, t: Tensor, y: Tensor, cond: _Within) -> Tensor:
        return self.field(torch.minimum(torch.maximum(t, cond.low), cond.high), y, cond.cond)


class StepperWrapper(AbstractStepper):
    """Another stepper, whose counts it has."""

    def __init__(self, inner: AbstractStepper) -> None:
        """Wrap a stepper."""
        self.inner = inner
        self.order, self.error_order, self.compiles = inner.order, inner.error_order, inner.compiles
        self.nfe_per_step, self.init_nfe = inner.nfe_per_step, inner.init_nfe

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """See the base class."""
        return self.inner.init(problem, t0, y0)

    def initial_slope(self, carry: Any) -> Tensor | None:
        """See the base class."""
        return self.inner.initial_slope(carry)


class InsideSteps(StepperWrapper):
    """A stepper that, at the ends of a step, asks about the number next to it within the step.

    A field that jumps there is found on the step's side of the jump at either end.
    """

    def __init__(self, inner: AbstractStepper, dtype: torch.dtype = torch.float64) -> None:
        """Wrap a stepper.

        Args:
            inner: the stepper.
            dtype: in which the field looks at the time.
        """
        super().__init__(inner)
        self._dtype = dtype

    def for_tolerance(self, rtol: float, atol: float | Tensor) -> Self:
        """See the base class."""
        return type(self)(self.inner.for_tolerance(rtol, atol), self._dtype)

    def for_one_solve(self) -> Self:
        """See the base class."""
        return type(self)(self.inner.for_one_solve(), self._dtype)

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """Just after the start; see the base class."""
        target = torch.as_tensor(problem.t1, dtype=torch.float64, device=t0.device).detach()
        return self.inner.init(problem, self._toward(t0, target), y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class."""
        assert isinstance(problem, ODEProblem)
        first, last = self._toward(t0, t1), self._toward(t1, t0)
        cond = _Within(problem.cond, torch.minimum(first, last), torch.maximum(first, last))
        jac = None if problem.jac is None else _Clamped(problem.jac)
        within = ODEProblem(
            _Clamped(problem.field), problem.y0, problem.t0, problem.t1, cond, problem.is_separable, jac
        )
        return self.inner.step(within, t0, t1, y0, carry)

    def _toward(self, time: Tensor, target: Tensor) -> Tensor:
        return torch.nextafter(time.to(self._dtype), target.to(self._dtype).expand_as(time)).double()
