"""The discrete adjoint from few checkpoints: between them the states are found again on the way back."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from isocline.solvers.controller import AbstractController
from isocline.solvers.gradient.base import AbstractAdjoint, AbstractReverse, Cotangents, Forward, Integrate
from isocline.solvers.gradient.inputs import Inputs, detached_problem, with_inputs
from isocline.solvers.gradient.replay import Segment, replay, take_segment
from isocline.solvers.gradient.runge_kutta import pull_of
from isocline.solvers.gradient.steps import Course, Needs, State, Step, Taken, advance, state_before
from isocline.solvers.gradient.sweep import Sweep
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.rows import map_tensors
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape, Saved, StepRecord

__all__ = ["CheckpointedAdjoint"]


class CheckpointedAdjoint(AbstractAdjoint):
    """The gradient of `DiscreteAdjoint` in the memory of O(√N) states for N steps, N not known beforehand.

    Forward, every s-th state is kept, and s doubles whenever more than 2 s are: between √(N/2) and √(2 N) checkpoints
    remain. Backward, each stretch between two of them is taken again along the recorded times, then differentiated
    step by step. It costs one evaluation more than the discrete adjoint per evaluation of an accepted step. With a
    number of checkpoints given, long stretches are divided again, and memory is O(checkpoints · log N).

    Times and decisions of every step are kept: N numbers per sample. Second derivatives work
    (``create_graph=True``), in O(√N) states and the activations of one stretch.

    Source: Griewank, Achieving logarithmic growth of temporal and spatial complexity in reverse automatic
    differentiation (1992); Stumm, Walther, New algorithms for optimal online checkpointing (2010), section 2.
    """

    def __init__(self, checkpoints: int | None = None, parameters: Sequence[Tensor] | None = None) -> None:
        """Choose the memory.

        Args:
            checkpoints: states to keep; None for about √N.
            parameters: as for `DiscreteAdjoint`.

        Raises:
            ValueError: if ``checkpoints`` is below two.
        """
        if checkpoints is not None and checkpoints < 2:
            raise ValueError(f"checkpoints={checkpoints}; expected at least 2, or None")
        self.checkpoints = checkpoints
        self.parameters = parameters

    def forward(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
        inputs: Inputs,
    ) -> Forward:
        """Solve and keep checkpoints; see the base class."""
        tape = _Tape(controller, self.checkpoints)
        solution = integrate(detached_problem(problem), stepper, controller, saveat, tape)
        return Forward(solution, _Reverse(tape, inputs, solution))


class _Tape(AbstractTape):
    """Keeps the states of every ``stride``-th step, and the times of all."""

    def __init__(self, controller: AbstractController, limit: int | None) -> None:
        self._controller, self.limit = controller, limit
        self._stride = 1
        self.course: Course | None = None
        self.steps: list[Step] = []
        self.checkpoints: dict[int, tuple[Tensor, Any]] = {}

    def start(self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, saved: tuple[Saved, ...]) -> None:
        self.course = Course.of(problem, stepper, t0, saved, self._controller)

    def step(self, record: StepRecord) -> None:
        index = len(self.steps)
        self.steps.append(Step.of(record, keep_state=False))
        if index % self._stride:
            return
        self.checkpoints[index] = (record.y0, record.carry)
        if len(self.checkpoints) > (2 * self._stride if self.limit is None else self.limit):
            self._stride *= 2
            self.checkpoints = {at: state for at, state in self.checkpoints.items() if at % self._stride == 0}


class _Reverse(AbstractReverse):
    def __init__(self, tape: _Tape, inputs: Inputs, solution: Solution) -> None:
        assert tape.course is not None
        self._course, self._steps, self._inputs = tape.course, tape.steps, inputs
        self._checkpoints, self._limit = tape.checkpoints, tape.limit
        self._shape = solution.ys.shape
        self._needs = Needs(tape.steps, tape.course.problem, solution)
        bounds = [*tape.checkpoints, len(tape.steps)]
        self._segments = list(itertools.pairwise(bounds))

    def pull(self, grad_ys: Tensor) -> Cotangents:
        sweep = Sweep(self._course, self._inputs, pull_of(self._course.stepper), grad_ys)
        for first, end in reversed(self._segments):
            self._back(sweep, first, end, self._restore(first))
        return sweep.finish(self._needs.at(0))

    def replay(self, y0: Tensor, cond: Sequence[Tensor]) -> Tensor:
        course = dataclasses.replace(self._course, problem=with_inputs(self._course.problem, self._inputs, y0, cond))
        return replay(course, y0, self._steps, self._needs, self._shape, self._segments, _take_forgetfully)

    def _restore(self, index: int) -> State:
        """The full batch at a checkpoint; samples that had left it by then are zero."""
        y0, carry = self._checkpoints[index]
        rows, size = self._steps[index].rows, len(self._course.problem.start)
        if rows is None:
            return State(y0, carry)
        full = map_tensors(lambda some: some.new_zeros((size, *some.shape[1:])).index_copy(0, rows, some), (y0, carry))
        return State(*full)

    def _back(self, sweep: Sweep, first: int, end: int, state: State) -> None:
        """Go back through the steps from ``first`` to ``end``, of which only the state at the first is known."""
        if self._limit is not None and end - first > self._limit:
            self._divide(sweep, first, end, state, -(-(end - first) // self._limit))
            return
        course, befores = self._course, []
        for index in range(first, end):
            taken = Taken.of(self._steps[index], sweep.choose, self._needs.at(index))
            if taken is None:
                continue
            before = state_before(course, taken, state)
            befores.append((index, before))
            if index + 1 < end:
                state = advance(course, taken, state, before)[0]
        while befores:
            index, before = befores.pop()
            taken = Taken.of(self._steps[index], sweep.choose, self._needs.at(index))
            assert taken is not None
            sweep.back(taken, before.y, before.carry)

    def _divide(self, sweep: Sweep, first: int, end: int, state: State, stride: int) -> None:
        states = [(first, state)]
        last = first + (end - first - 1) // stride * stride
        for index in range(first, last):
            taken = Taken.of(self._steps[index], sweep.choose, self._needs.at(index))
            if taken is not None:
                state = advance(self._course, taken, state, state_before(self._course, taken, state))[0]
            if (index + 1 - first) % stride == 0:
                states.append((index + 1, state))
        while states:
            index, state = states.pop()
            self._back(sweep, index, min(index + stride, end), state)


def _take_forgetfully(course: Course, steps: Sequence[Step], needs: Needs, first: int, state: State) -> Segment:
    """Take a stretch whose activations are found again when they are needed."""
    return checkpoint(take_segment, course, steps, needs, first, state, use_reentrant=False)
