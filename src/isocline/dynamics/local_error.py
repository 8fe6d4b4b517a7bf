"""What one step of a method loses on a given solution: its size, its observed order, and where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.path import FieldPath
from isocline.metrics.uncertainty import Estimate
from isocline.solvers import AbstractStepper, ConstantSteps, Dopri8, ODEProblem, VectorField, solve
from isocline.solvers.multistep import AdamsBashforth, AdamsBashforthMoulton
from isocline.solvers.rows import select_rows

__all__ = ["LocalError", "LocalErrorRow", "measure_local_error"]


class LocalErrorRow(NamedTuple):
    """One step, averaged over samples.

    Attributes:
        start: time at which it starts.
        end: time at which it ends.
        error: root mean square over components of what the step loses.
        per_unit_step: the same, divided by the step's length.
        order: observed order of the method; None where rounding hides it.
        share: of the sum of the errors of all steps.
    """

    start: float
    end: float
    error: Estimate
    per_unit_step: Estimate
    order: Estimate | None
    share: float


@dataclass(frozen=True, eq=False)
class LocalError:
    """Errors of K - 1 single steps from exact states, for B samples.

    Attributes:
        ts: the grid, float64, shape (K,).
        errors: root mean square over components of the error of each step, shape (K - 1, B).
        halved: of a step of half the length from the same state.
        rounding: what the state's dtype resolves, shape (K - 1, B).
        order: the method's nominal order.
    """

    ts: Tensor
    errors: Tensor
    halved: Tensor
    rounding: Tensor
    order: float

    @property
    def per_unit_step(self) -> Tensor:
        """Errors divided by the steps' lengths, shape (K - 1, B)."""
        return self.errors / self.ts.diff().abs()[:, None]

    @property
    def observed_order(self) -> Tensor:
        """``log₂(e_h / e_{h/2}) - 1``, shape (K - 1, B); NaN where the smaller error is not ten times the rounding.

        Lower than the nominal order where the step is too long for the field: outside the asymptotic range, beyond the
        region of stability, or across a kink.
        """
        order = torch.log2(self.errors / self.halved) - 1
        return torch.where(self.halved > 10 * self.rounding, order, torch.nan)

    @property
    def principal(self) -> Tensor:
        """``e / h^(p+1)`` with the nominal order p: the principal error coefficient, shape (K - 1, B)."""
        return self.errors / self.ts.diff().abs()[:, None] ** (self.order + 1)

    @property
    def shares(self) -> Tensor:
        """Which part of the sum of errors each step makes, averaged over samples, shape (K - 1,)."""
        total = self.errors.sum(0)
        return (self.errors / torch.where(total > 0, total, 1.0)).mean(1)

    def rows(self) -> list[LocalErrorRow]:
        """One row per step.

        Raises:
            ValueError: if an error is not finite.
        """
        found = []
        for index, orders in enumerate(self.observed_order):
            known = orders[orders.isfinite()]
            found.append(
                LocalErrorRow(
                    float(self.ts[index]),
                    float(self.ts[index + 1]),
                    Estimate.from_values(self.errors[index].tolist()),
                    Estimate.from_values(self.per_unit_step[index].tolist()),
                    Estimate.from_values(known.tolist()) if len(known) else None,
                    float(self.shares[index]),
                )
            )
        return found


def measure_local_error(
    field: VectorField, path: FieldPath, stepper: AbstractStepper, cond: Any = None, *, reference_steps: int = 8
) -> LocalError:
    """Take every step of the path's grid from the path's own state, and compare with an accurate solve.

    All steps are taken at once, as samples of one batch of (K - 1) B with their own times.

    Args:
        field: ``f(t, x, cond) -> dx``, t of shape (B,) included.
        path: grid and states. How accurate the states are matters little: errors are those of steps that start there.
        stepper: a one-step method.
        cond: handed to the field; tensors in it lead with B.
        reference_steps: steps of `Dopri8` in each step of the grid.

    Raises:
        ValueError: for multistep methods, which do not start from a single state.
    """
    if isinstance(stepper, AdamsBashforth | AdamsBashforthMoulton):
        raise ValueError(
            f"stepper={type(stepper).__name__} needs past slopes; local errors are those of one-step methods"
        )
    count, batch = len(path.ts) - 1, path.states.shape[1]
    starts = path.states[:-1].flatten(0, 1)
    rows = torch.arange(batch, device=starts.device).repeat(count)
    own = select_rows(cond, rows)
    t0, t1 = (ts.repeat_interleave(batch).to(starts.device) for ts in (path.ts[:-1], path.ts[1:]))

    def end(method: AbstractStepper, until: Tensor, steps: int) -> Tensor:
        problem = ODEProblem(field, starts, t0, until, own)
        return solve(problem, method, ConstantSteps(steps)).final.double().flatten(1)

    with torch.no_grad():
        errors = []
        for until in (t1, (t0 + t1) / 2):
            exact = end(Dopri8(), until, reference_steps)
            errors.append((end(stepper, until, 1) - exact).square().mean(1).sqrt().reshape(count, batch).cpu())
        size = starts.double().flatten(1).square().mean(1).sqrt()
        rounding = torch.finfo(starts.dtype).eps * size.reshape(count, batch).cpu()
    return LocalError(path.ts, errors[0], errors[1], rounding, stepper.order)
