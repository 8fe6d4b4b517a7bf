"""The way back along a continuous adjoint, from save time to save time."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.controller import AbstractController
from isocline.solvers.gradient.adjoint import AbstractAdjointSystem, AdjointWarning, ParameterQuadrature
from isocline.solvers.gradient.base import AbstractReverse, Cotangents, Integrate
from isocline.solvers.gradient.inputs import Inputs
from isocline.solvers.gradient.stops import Stops
from isocline.solvers.solution import SaveAt, Solution, Status
from isocline.solvers.stepper import AbstractStepper

__all__ = ["BackwardSolver", "ContinuousReverse", "Doubts", "saved_at"]


class ContinuousReverse(AbstractReverse):
    """Solves an adjoint system backward over each interval between save times.

    The equation is linear in the cotangent, which each solve therefore takes with its largest component scaled to one:
    absolute tolerances mean the same for a mean over a thousand samples as for a sum.
    """

    def __init__(
        self,
        system: AbstractAdjointSystem,
        inputs: Inputs,
        stops: Stops,
        ys: Tensor,
        solver: BackwardSolver,
        tolerance: float,
    ) -> None:
        """Keep what the way back needs.

        Args:
            system: the equation to solve backward.
            inputs: what to differentiate by.
            stops: where the solve is known.
            ys: saved states, shape (K, B, *event).
            solver: of the equation.
            tolerance: how far states found backward may be from those known, before there is a warning.
        """
        self._system, self._inputs, self._stops, self._ys = system, inputs, stops, ys
        # They are what the caller is given, and share its memory.
        self._version = ys._version
        self._solver, self._tolerance = solver, tolerance

    def pull(self, grad_ys: Tensor) -> Cotangents:
        """See the base class.

        Raises:
            RuntimeError: if the saved states have been changed in place since they were found.
        """
        if self._ys._version != self._version:
            raise RuntimeError(
                f"the saved states of a solve, of shape {tuple(self._ys.shape)}, were changed in place between its "
                "forward and backward pass, which starts from them; change a copy: .clone()"
            )
        system, stops, start = self._system, self._stops, self._system.problem.start
        quadrature = ParameterQuadrature(system, self._inputs, self._solver.stepper.order)
        doubts = Doubts(self._ys, self._tolerance)
        y, a = start, torch.zeros_like(start)
        begun = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        for interval in reversed(range(len(stops.order))):
            saved, cotangent = (saved_at(values, stops.order[interval]) for values in (self._ys, grad_ys))
            reached = saved.isfinite().reshape(len(saved), -1).all(1)
            mask = expand_like(reached, saved)
            y, a = torch.where(mask, saved, y), torch.where(mask, a + cotangent, a)
            begun = begun | reached
            # Without a cotangent there is nothing to solve, and no state to compare.
            moved = begun & (a != 0).reshape(len(a), -1).any(1)
            y, a = self._interval(interval, y, a, moved, quadrature, doubts)
            known = saved_at(self._ys, stops.order[interval - 1]) if interval else start
            doubts.compare(stops.times[interval], y, known, moved)
        doubts.warn()
        values = quadrature.total.values
        if doubts.failed:
            # Part of every sum over samples is missing.
            values = [None if value is None else torch.full_like(value, torch.nan) for value in values]
        return Cotangents(a, quadrature.cond, values)

    def _interval(
        self,
        interval: int,
        y: Tensor,
        a: Tensor,
        moved: Tensor,
        quadrature: ParameterQuadrature,
        doubts: Doubts,
    ) -> tuple[Tensor, Tensor]:
        """Go back over one interval."""
        system, (t0, t1) = self._system, self._stops.times[interval : interval + 2]
        scale = a.abs().reshape(len(a), -1).amax(1).double()
        rows = torch.nonzero(moved & (t0 != t1)).flatten()
        if not len(rows):
            return y, a
        if not system.problem.separable:
            # A field that mixes samples is linear in all their cotangents together.
            rows = torch.arange(len(a), device=a.device)
            scale = scale.max().expand_as(scale)
        scale = torch.where(scale != 0, scale, 1.0)
        quadrature.scale = scale
        part = a[rows]
        spread = expand_like(scale[rows], part).to(part.real.dtype)
        starts, ends = (time[rows] if time.ndim else time for time in (t0, t1))
        problem = system.equation(y[rows], part / spread, ends, starts, rows)
        control = self._solver.control(self._stops, interval, rows if len(rows) < len(a) else None)
        solution = self._solver.integrate(
            problem, self._solver.stepper, control, SaveAt(), quadrature if quadrature.needed else None, event=None
        )
        doubts.note(rows, solution)
        y_back, a_back = system.split(starts, solution.final, rows)
        return y.index_copy(0, rows, y_back), a.index_copy(0, rows, a_back * spread)


@dataclass(frozen=True, eq=False)
class BackwardSolver:
    """How an adjoint system is solved.

    Attributes:
        stepper: the method.
        controller: the steps of every interval; None for the points of the forward grid.
        integrate: the loop.
    """

    stepper: AbstractStepper
    controller: AbstractController | None
    integrate: Integrate

    def control(self, stops: Stops, interval: int, rows: Tensor | None) -> AbstractController:
        """The steps of one interval for the samples ``rows``, None for all."""
        return stops.reversed_grid(interval, rows) if self.controller is None else self.controller


class Doubts:
    """What speaks against the result of a way back."""

    def __init__(self, ys: Tensor, tolerance: float) -> None:
        """Take the saved states, shape (K, B, *event), for the size of the solution."""
        self._size = _root_mean_square(ys.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).transpose(0, 1))
        self._tolerance = tolerance
        self._far = ""
        self._worst = tolerance
        self._reasons: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether the equation of any sample could not be solved."""
        return bool(self._reasons)

    def note(self, rows: Tensor, solution: Solution) -> None:
        """Look for samples that failed."""
        for index in torch.nonzero(~solution.succeeded).flatten().tolist():
            reason = Status(int(solution.status[index])).explanation
            self._reasons.append(f"sample {int(rows[index])} at t={float(solution.stopped_at[index]):.6g}: {reason}")

    def compare(self, t: Tensor, found: Tensor, known: Tensor, begun: Tensor) -> None:
        """Compare states found on the way back with those of the forward solve."""
        if math.isinf(self._tolerance):
            return
        size = torch.maximum(self._size, _root_mean_square(known))
        distance = _root_mean_square(found - known) / torch.where(size > 0, size, 1.0)
        distance = torch.where(begun & distance.isfinite(), distance, 0.0)
        worst = float(distance.max())
        if worst > self._worst:
            sample = int(distance.argmax())
            time = float(t[sample] if t.ndim else t)
            self._worst = worst
            self._far = (
                f"the state of sample {sample} at t={time:.6g} was found again with a relative error of {worst:.2g}"
            )

    def warn(self) -> None:
        """Warn if anything was found."""
        if self._reasons:
            more = f"; and {len(self._reasons) - 3} more" if len(self._reasons) > 3 else ""
            warnings.warn(
                "the adjoint equation could not be solved, gradients are NaN: "
                + "; ".join(self._reasons[:3])
                + more
                + _CURE,
                AdjointWarning,
                stacklevel=2,
            )
        elif self._far:
            warnings.warn(
                f"on the way back {self._far} (tolerance {self._tolerance:g}), so that the gradient is wrong{_CURE}",
                AdjointWarning,
                stacklevel=2,
            )


_CURE = "; take DiscreteAdjoint() or CheckpointedAdjoint(), which do not solve the equation backward"


def _root_mean_square(y: Tensor) -> Tensor:
    return y.abs().double().reshape(len(y), -1).square().mean(1).sqrt()


def saved_at(values: Tensor, order: Tensor) -> Tensor:
    """The saved states of one place, or of each sample's own."""
    return values[order] if order.ndim == 0 else values[order, torch.arange(values.shape[1], device=values.device)]
