"""Steps of a solve, written down so that they can be taken again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.controller import AbstractAdaptiveController, AbstractController
from isocline.solvers.gradient import trees
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.rows import map_tensors, merge_rows, select_rows
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.tape import Saved, StepRecord

__all__ = [
    "Choose",
    "Course",
    "Kept",
    "Needs",
    "State",
    "Step",
    "Taken",
    "advance",
    "begin",
    "state_before",
    "states_within",
]

Choose: TypeAlias = Callable[[Tensor | None], AbstractProblem]
"""The equation for some rows of the full batch, or for all of it."""


@dataclass(slots=True, eq=False)
class Step:
    """A `StepRecord` without its problem and dense output.

    Attributes:
        rows: as in the record.
        t0: as in the record.
        t1: as in the record.
        accept: as in the record.
        saved: as in the record.
        y0: states at the start; None where they are not kept.
        carry: the stepper's there.
    """

    rows: Tensor | None
    t0: Tensor
    t1: Tensor
    accept: Tensor | None
    saved: tuple[Saved, ...]
    y0: Tensor | None
    carry: Any

    @classmethod
    def of(cls, record: StepRecord, keep_state: bool = True) -> Step:
        """Write a record down, with or without its states."""
        y0, carry = (record.y0, record.carry) if keep_state else (None, None)
        return cls(record.rows, record.t0, record.t1, record.accept, record.saved, y0, carry)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """What one solve was, apart from its steps.

    Attributes:
        problem: the equation, for the full batch.
        stepper: the method.
        t0: start, shape () or (B,).
        saved: states kept there.
        jumps: times of the field's jumps, where the stepper's carry was made anew, or None.
    """

    problem: AbstractProblem
    stepper: AbstractStepper
    t0: Tensor
    saved: tuple[Saved, ...]
    jumps: Tensor | None

    @classmethod
    def of(
        cls,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        t0: Tensor,
        saved: tuple[Saved, ...],
        controller: AbstractController,
    ) -> Course:
        """Read the jumps from the controller."""
        jumps = controller.jump_ts if isinstance(controller, AbstractAdaptiveController) else ()
        times = torch.as_tensor(jumps, dtype=torch.float64, device=t0.device).reshape(-1)
        return cls(problem, stepper, t0, saved, times if len(times) else None)

    def choose(self, rows: Tensor | None) -> AbstractProblem:
        """The equation for the samples ``rows``; None for all."""
        return self.problem if rows is None else self.problem.at_rows(rows)

    def leaps(self, step: Taken) -> Tensor | None:
        """Which samples begin this step at a jump, bool, shape (n,); None if nobody does."""
        if self.jumps is None:
            return None
        first = self.t0 if step.rows is None or not self.t0.ndim else self.t0[step.rows]
        at = torch.isin(step.t0, self.jumps) & (step.t0 != first)
        return at.expand(step.size) if bool(at.any()) else None


class Kept(NamedTuple):
    """States kept from a step, by places in the full output.

    Attributes:
        places: places in the output of K times B states, int64, shape (m,).
        local: samples they belong to, shape (m,); None for the whole batch.
        theta: shares of the step, shape (m,) or ().
    """

    places: Tensor
    local: Tensor | None
    theta: Tensor


class Taken(NamedTuple):
    """The part of a step that is taken again: by the samples that accepted it.

    Attributes:
        problem: the equation for these n samples.
        rows: their places in the full batch, or None for all in order.
        t0: start of the step, shape () or (n,).
        t1: its end.
        size: n.
        local: their places in the step's own batch, or None for all.
        frozen: samples that did not accept it but cannot be taken out, bool, shape (B,), or None.
        kept: states kept from it.
    """

    problem: AbstractProblem
    rows: Tensor | None
    t0: Tensor
    t1: Tensor
    size: int
    local: Tensor | None
    frozen: Tensor | None
    kept: tuple[Kept, ...]

    @classmethod
    def of(cls, step: Step, choose: Choose, living: Tensor | None) -> Taken | None:
        """Leave out the samples that rejected a step, where samples may be taken apart.

        Args:
            step: the step.
            choose: the equation for some rows of the full batch.
            living: samples that anything after the step's start depends on, bool, shape (B,); None for all.

        Returns:
            What is taken, or None if nobody takes it.
        """
        accept, rows = step.accept, step.rows
        batch = len(choose(None).start)
        if living is not None:
            needed = living if rows is None else living[rows]
            accept = needed if accept is None else accept & needed
        problem = choose(rows) if accept is None or rows is None else None
        if accept is not None and problem is not None and not problem.separable:
            return cls(problem, None, step.t0, step.t1, batch, None, ~accept, _kept(step, batch, None))
        if accept is None:
            assert problem is not None
            size = batch if rows is None else len(rows)
            return cls(problem, rows, step.t0, step.t1, size, None, None, _kept(step, batch, None))
        local = torch.nonzero(accept).flatten()
        if not len(local):
            return None
        rows = local if rows is None else rows[local]
        t0, t1 = (time[local] if time.ndim else time for time in (step.t0, step.t1))
        return cls(choose(rows), rows, t0, t1, len(local), local, None, _kept(step, batch, local))

    def select(self, tree: Any) -> Any:
        """These samples of something that belongs to the step's own batch."""
        return tree if self.local is None else select_rows(tree, self.local)


def _kept(step: Step, batch: int, local: Tensor | None) -> tuple[Kept, ...]:
    """Where the states kept from a step go, the samples renumbered after ``local``."""
    kept = []
    for saved in step.saved:
        if saved.local is None:
            device = step.t0.device
            places = (saved.save.to(device) * batch)[:, None] + torch.arange(batch, device=device)
            kept.append(Kept(places.flatten(), None, saved.theta))
            continue
        sample = saved.local if step.rows is None else step.rows[saved.local]
        inside = saved.local
        if local is not None:
            position = inside.new_zeros(step.accept.shape if step.accept is not None else (batch,))
            position[local] = torch.arange(len(local), device=local.device)
            inside = position[inside]
        kept.append(Kept(saved.save * batch + sample, inside, saved.theta))
    return tuple(kept)


class State(NamedTuple):
    """Where the full batch is between two steps.

    Attributes:
        y: states, shape (B, *event).
        carry: the stepper's.
    """

    y: Tensor
    carry: Any


def begin(course: Course, y0: Tensor, living: Tensor | None) -> State:
    """The state before the first step; the carry of samples that nothing depends on is zero."""
    problem, t0 = course.problem, course.t0
    if living is None:
        return State(y0, course.stepper.init(problem, t0, y0))
    rows = torch.nonzero(living).flatten()
    carry = course.stepper.init(course.choose(rows), t0[rows] if t0.ndim else t0, y0[rows])
    full = map_tensors(lambda some: some.new_zeros((len(y0), *some.shape[1:])).index_copy(0, rows, some), carry)
    return State(y0, full)


def state_before(course: Course, taken: Taken, state: State) -> State:
    """The state of the samples that take a step, from the full batch."""
    if taken.rows is not None:
        state = State(*select_rows(tuple(state), taken.rows))
    at = course.leaps(taken)
    if at is None:
        return state
    anew = course.stepper.init(taken.problem, taken.t0, state.y)
    return State(state.y, merge_rows(at, anew, state.carry))


def advance(course: Course, taken: Taken, state: State, before: State) -> tuple[State, StepResult]:
    """Take a step again.

    Args:
        course: the solve.
        taken: who takes the step.
        state: the full batch.
        before: these samples, from `state_before`.

    Returns:
        The full batch after the step, and the step.
    """
    result = course.stepper.step(taken.problem, taken.t0, taken.t1, before.y, before.carry)
    after = State(result.y1, result.carry)
    if taken.frozen is not None:
        after = State(*merge_rows(~taken.frozen, tuple(after), tuple(before)))
    if taken.rows is None:
        return after, result
    return State(*_spread(tuple(state), tuple(after), taken.rows)), result


def _spread(full: Any, part: Any, rows: Tensor) -> Any:
    pairs = zip(trees.flatten(full), trees.flatten(part), strict=True)
    return trees.replace(full, [whole.index_copy(0, rows, some) if whole.ndim else some for whole, some in pairs])


def states_within(taken: Taken, result: StepResult) -> list[tuple[Tensor, Tensor]]:
    """Places in the output, and the states kept there, shape (m, *event) each."""
    found = []
    for kept in taken.kept:
        at_end = kept.theta == 1
        if bool(at_end.all()):
            values = result.y1 if kept.local is None else result.y1[kept.local]
        else:
            assert result.dense is not None
            values = result.dense.evaluate(kept.theta, kept.local)
            if bool(at_end.any()):
                assert kept.local is not None
                values = torch.where(expand_like(at_end, values), result.y1[kept.local], values)
        found.append((kept.places, values))
    return found


class Needs:
    """Which samples' steps anything depends on.

    What a failed sample did after its last saved state is left out of the way back: it may be infinite, and 0 · inf is
    NaN.
    """

    def __init__(self, steps: Sequence[Step], problem: AbstractProblem, solution: Solution) -> None:
        """Look through the steps, if any sample failed and samples can be taken apart."""
        self._last: Tensor | None = None
        if not problem.separable or bool(solution.succeeded.all()):
            return
        last = torch.full_like(solution.status, -1)
        for index, step in enumerate(steps):
            for saved in step.saved:
                if saved.local is None:
                    last[:] = index
                else:
                    last[saved.local if step.rows is None else step.rows[saved.local]] = index
        self._last = last

    def at(self, index: int) -> Tensor | None:
        """The samples that something after the start of step ``index`` depends on, bool, shape (B,); None for all."""
        return None if self._last is None else self._last >= index
