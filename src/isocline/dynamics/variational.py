"""A state and tangent vectors along it, integrated together: ``dx/dt = f(t, x)``, ``dv_j/dt = ∂f/∂x v_j``."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import isocline.solvers.dual_rules  # noqa: F401 - fills in the rules of Dual
from isocline.dynamics.krylov import jacobian_operator
from isocline.solvers import ODEProblem, PIDController, Solution, Tsit5, solve
from isocline.solvers.controller import AbstractController
from isocline.solvers.dual import Dual
from isocline.solvers.problem import Time, VectorField
from isocline.solvers.rows import select_rows
from isocline.solvers.stepper import AbstractStepper

__all__ = ["Pushed", "TangentMap", "VariationalEquation"]


class Pushed(NamedTuple):
    """A law's value and derivatives.

    Attributes:
        value: shape (B, *event).
        tangents: Jacobian of each sample times k vectors, shape (B, k, n).
    """

    value: Tensor
    tangents: Tensor


class TangentMap:
    """A law with its derivatives in several directions.

    On dual numbers one evaluation gives them all. A law with an operation that has no rule there is evaluated once
    more for each direction, all in one batch, by `isocline.dynamics.krylov.jacobian_operator`.

    Args:
        law: ``law(t, x, cond)``, shape of x.
    """

    def __init__(self, law: VectorField) -> None:
        self.law = law
        self._on_duals = True

    def __call__(self, t: Tensor, x: Tensor, tangents: Tensor, cond: Any) -> Pushed:
        """Evaluate at states (B, *event) with tangents (B, k, n)."""
        if self._on_duals:
            try:
                with torch.no_grad():
                    return self._by_duals(t, x, tangents, cond)
            # Whatever goes wrong on dual numbers is looked at again without: a mistake of the law raises there too.
            except Exception:
                self._on_duals = False
        count, rows = tangents.shape[:2]
        places = torch.arange(count, device=x.device).repeat_interleave(rows)
        times = t if t.ndim == 0 else t[places]
        operator = jacobian_operator(self.law, times, x[places], select_rows(cond, places))
        pushed = operator.matvec(tangents.flatten(0, 1).to(x.dtype)).reshape(count, rows, -1)
        return Pushed(self.law(t, x, cond), pushed)

    def _by_duals(self, t: Tensor, x: Tensor, tangents: Tensor, cond: Any) -> Pushed:
        count, rows = tangents.shape[:2]
        stacked = tangents.to(x.dtype).transpose(0, 1).reshape(rows, *x.shape)
        # `Dual` stands for a tensor in the law's operations, which its type does not say.
        state: Any = Dual(x, stacked)
        image: Any = self.law(t, state, cond)
        if not isinstance(image, Dual):
            return Pushed(image, torch.zeros_like(tangents, dtype=x.dtype))
        return Pushed(image.primal, image.tangent.reshape(rows, count, -1).transpose(0, 1))


class VariationalEquation:
    """The variational equation of a field, on the solver core.

    The joint state has shape (B, 1 + k, n): row 0 is x, flattened, the others are tangent vectors.

    Args:
        field: ``f(t, x, cond)``.
        event: shape of one state.
        cond: handed to the field.
        stepper: `Tsit5` by default.
        controller: ``PIDController(rtol=1e-6, atol=1e-8)`` by default, for each sample its own steps.
    """

    def __init__(
        self,
        field: VectorField,
        event: torch.Size,
        cond: Any = None,
        stepper: AbstractStepper | None = None,
        controller: AbstractController | None = None,
    ) -> None:
        self.field, self.event, self.cond = field, event, cond
        self.tangent_map = TangentMap(field)
        self.stepper = stepper or Tsit5()
        self.controller = controller or PIDController(rtol=1e-6, atol=1e-8)

    def solve(self, x: Tensor, tangents: Tensor, t0: Time, t1: Time) -> Solution:
        """Integrate states (B, *event) and tangents (B, k, n); see `states` and `tangents` for the result's parts."""
        joint = torch.cat([x.flatten(1)[:, None], tangents.to(x.dtype)], 1)
        with torch.no_grad():
            return solve(ODEProblem(self.slope, joint, t0, t1, self.cond), self.stepper, self.controller)

    def slope(self, t: Tensor, joint: Tensor, cond: Any) -> Tensor:
        """The joint field."""
        x = joint[:, 0].reshape(len(joint), *self.event)
        pushed = self.tangent_map(t, x, joint[:, 1:], cond)
        return torch.cat([pushed.value.flatten(1)[:, None], pushed.tangents], 1)

    def states(self, solution: Solution) -> Tensor:
        """End states, shape (B, *event)."""
        return solution.final[:, 0].reshape(-1, *self.event)

    @staticmethod
    def tangents(solution: Solution) -> Tensor:
        """End tangents, shape (B, k, n)."""
        return solution.final[:, 1:]
