"""The discrete adjoint: every accepted step is taken again on the way back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from isocline.solvers.controller import AbstractController
from isocline.solvers.gradient.base import AbstractAdjoint, AbstractReverse, Cotangents, Forward, Integrate
from isocline.solvers.gradient.inputs import Inputs, detached_problem, with_inputs
from isocline.solvers.gradient.replay import replay, take_segment
from isocline.solvers.gradient.runge_kutta import pull_of
from isocline.solvers.gradient.steps import Course, Needs, Step, Taken
from isocline.solvers.gradient.sweep import Sweep
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape, Saved, StepRecord

__all__ = ["DiscreteAdjoint"]


class DiscreteAdjoint(AbstractAdjoint):
    """The exact gradient of the discrete solution from the states at the steps, which are all that is kept.

    Backward, every accepted step is evaluated again and differentiated. It costs one more evaluation than
    backpropagation per evaluation of an accepted step, and nothing for rejected ones; memory is one state per step and
    what the stepper carries, and the activations of one evaluation (of one step, for steppers other than explicit
    Runge–Kutta methods). Second derivatives work (``create_graph=True``), with the memory of backpropagation.

    The field has to be deterministic; one that draws random numbers gives the gradient of other draws.
    """

    def __init__(self, parameters: Sequence[Tensor] | None = None) -> None:
        """Name tensors to differentiate by.

        Args:
            parameters: tensors the field uses besides those that are found: leaves that require grad, and whatever its
                modules, closures and partial arguments hold.
        """
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
        """Solve and keep the state at every step; see the base class."""
        tape = _Tape(controller)
        solution = integrate(detached_problem(problem), stepper, controller, saveat, tape)
        return Forward(solution, _Reverse(tape, inputs, solution))


class _Tape(AbstractTape):
    """Keeps every accepted step."""

    def __init__(self, controller: AbstractController) -> None:
        self._controller = controller
        self.course: Course | None = None
        self.steps: list[Step] = []

    def start(self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, saved: tuple[Saved, ...]) -> None:
        self.course = Course.of(problem, stepper, t0, saved, self._controller)

    def step(self, record: StepRecord) -> None:
        self.steps.append(Step.of(record))


class _Reverse(AbstractReverse):
    def __init__(self, tape: _Tape, inputs: Inputs, solution: Solution) -> None:
        assert tape.course is not None
        self._course, self._steps, self._inputs = tape.course, tape.steps, inputs
        self._shape = solution.ys.shape
        self._needs = Needs(tape.steps, tape.course.problem, solution)

    def pull(self, grad_ys: Tensor) -> Cotangents:
        sweep = Sweep(self._course, self._inputs, pull_of(self._course.stepper), grad_ys)
        for index in reversed(range(len(self._steps))):
            step = self._steps[index]
            taken = Taken.of(step, sweep.choose, self._needs.at(index))
            if taken is not None:
                sweep.back(taken, taken.select(step.y0), taken.select(step.carry))
        return sweep.finish(self._needs.at(0))

    def replay(self, y0: Tensor, cond: Sequence[Tensor]) -> Tensor:
        course = dataclasses.replace(self._course, problem=with_inputs(self._course.problem, self._inputs, y0, cond))
        return replay(course, y0, self._steps, self._needs, self._shape, [(0, len(self._steps))], take_segment)
