"""Steps that ask their field about the inside of themselves only: for fields that jump where steps end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from isocline.solvers.problem import AbstractProblem, ODEProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["InsideSteps", "StepperWrapper"]

_PARTS = (
    "field",
    "jac",
    "drift",
    "diffusion",
    "remainder",
    "acceleration",
    "minus_potential_gradient",
    "kinetic_gradient",
)
"""Functions of time, something and ``cond`` that problems are made of."""


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

    def __init__(self, inner: AbstractStepper, jumps: Tensor | None = None, dtype: torch.dtype = torch.float64) -> None:
        """Wrap a stepper.

        Args:
            inner: the stepper.
            jumps: the ends of steps that are meant, float64, shape (J,); None for all.
            dtype: in which the field looks at the time.
        """
        super().__init__(inner)
        self.jumps, self.dtype = None if jumps is None else jumps.to(dtype), dtype

    def for_tolerance(self, rtol: float, atol: float | Tensor) -> Self:
        """See the base class."""
        return type(self)(self.inner.for_tolerance(rtol, atol), self.jumps, self.dtype)

    def for_one_solve(self) -> Self:
        """See the base class."""
        return type(self)(self.inner.for_one_solve(), self.jumps, self.dtype)

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """Just after the start; see the base class."""
        target = torch.as_tensor(problem.t1, dtype=torch.float64, device=t0.device).detach()
        return self.inner.init(problem, torch.where(self._is_meant(t0), self._toward(t0, target), t0), y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class."""
        # Moved away from the start, where methods differentiate in time; kept from the end, beyond which some ask.
        move = torch.where(self._is_meant(t0), self._toward(t0, t1) - t0, 0.0)
        end, ahead = self._is_meant(t1), t1 >= t0
        last = self._toward(t1, t0)
        low, high = torch.where(end & ~ahead, last, -torch.inf), torch.where(end & ahead, last, torch.inf)
        return self.inner.step(_inside(problem, move, low, high), t0, t1, y0, carry)

    def _is_meant(self, time: Tensor) -> Tensor:
        if self.jumps is None:
            return torch.ones_like(time, dtype=torch.bool)
        return (time.to(self.dtype)[..., None] == self.jumps.to(time.device)).any(-1)

    def _toward(self, time: Tensor, target: Tensor) -> Tensor:
        return torch.nextafter(time.to(self.dtype), target.to(self.dtype).expand_as(time)).double()


class _Within(NamedTuple):
    """What a function of the problem is given, how times are moved and bounded for it, of shape () or (B,)."""

    cond: Any
    move: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class _Inside:
    function: Callable[..., Any]

    def __call__(self, t: Tensor, *rest: Any) -> Any:
        *states, within = rest
        time = torch.minimum(torch.maximum(t + within.move, within.low), within.high)
        return self.function(time, *states, within.cond)


def _inside(problem: AbstractProblem, move: Tensor, low: Tensor, high: Tensor) -> AbstractProblem:
    """The same equation at times that are moved, and bounded."""
    cond = _Within(problem.cond, move, low, high)
    if isinstance(problem, ODEProblem):
        # Spelt out, so that a compiler can follow.
        jac = None if problem.jac is None else _Inside(problem.jac)
        field, kind = _Inside(problem.field), problem.is_separable
        return ODEProblem(field, problem.y0, problem.t0, problem.t1, cond, kind, jac)
    found = {name: getattr(problem, name, None) for name in _PARTS}
    parts = {name: _Inside(function) for name, function in found.items() if callable(function)}
    changed: Any = dataclasses.replace(problem, cond=cond, **parts)  # type: ignore[type-var]
    return changed
