"""Integration of any problem by any stepper under any controller."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

from isocline.solvers.compiled import CompiledStep
from isocline.solvers.controller import AbstractAdaptiveController, AbstractController, AbstractGrid, PIDController
from isocline.solvers.event import Event, refine_events
from isocline.solvers.inside import InsideSteps
from isocline.solvers.pace import GridPace, JointPace
from isocline.solvers.problem import AbstractProblem, MarkovProblem, SDEProblem
from isocline.solvers.samples import integrate_samples
from isocline.solvers.shared import integrate_shared
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape

if TYPE_CHECKING:
    from isocline.solvers.gradient.base import AbstractGradient

__all__ = ["solve", "solve_strict"]

_END = SaveAt()


def solve(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractController,
    saveat: SaveAt = _END,
    *,
    gradient: AbstractGradient | None = None,
    event: Event | None = None,
    compiled: CompiledStep | None = None,
) -> Solution:
    """Integrate a problem from its t0 to its t1, in either direction of time.

    Differentiable with respect to y0, cond and the field's parameters; step sizes are constants. A numeric failure
    is a status of its sample and leaves the other samples untouched.

    Args:
        problem: what to integrate.
        stepper: the method.
        controller: the steps.
        saveat: the states to keep; the end by default.
        gradient: how derivatives are found: `isocline.solvers.gradient`. By default, by backpropagation through the
            steps, times being constants.
        event: ends the solve of a sample before its t1.
        compiled: compiles the steps, field included, under per-sample control.

    Returns:
        Solution with ``ys`` of shape (K, B, *event), and statistics and status per sample.

    Raises:
        ValueError: if controller and stepper do not go together, or a save time lies outside the span.
        TypeError: if the controller is of neither kind.
    """
    return _solve(problem, stepper, controller, saveat, gradient, event, False, compiled)


def solve_strict(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractController,
    saveat: SaveAt = _END,
    *,
    gradient: AbstractGradient | None = None,
    event: Event | None = None,
    compiled: CompiledStep | None = None,
) -> Solution:
    """As `solve`, but a sample that fails is an exception that names sample, time, step and cure.

    On a grid every step is checked (on the device, without waiting for it), which costs a little time.

    Raises:
        SolverError: if any sample does not reach the end of its span.
        ValueError: as `solve`.
        TypeError: as `solve`.
    """
    return _solve(problem, stepper, controller, saveat, gradient, event, True, compiled).raise_on_failure()


def _solve(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractController,
    saveat: SaveAt,
    gradient: AbstractGradient | None,
    event: Event | None,
    watch: bool,
    compiled: CompiledStep | None,
) -> Solution:
    if isinstance(controller, PIDController):
        stepper = stepper.for_tolerance(controller.rtol, controller.atol)
        if len(controller.jump_ts) and not isinstance(problem, MarkovProblem):
            stepper = InsideSteps(stepper, torch.as_tensor(controller.jump_ts, dtype=torch.float64).reshape(-1))
    if event is not None and isinstance(problem, MarkovProblem):
        raise ValueError("an event needs states of real numbers, and those of a MarkovProblem are tokens; leave it out")
    plain = functools.partial(integrate, event=event, watch=watch, compiled=compiled)
    if gradient is None:
        solution = plain(problem, stepper, controller, saveat)
    else:
        solution = gradient.solve(problem, stepper, controller, saveat, plain)
    # A path of noise has no slope to find the crossing by, more exactly than on the step's dense output.
    if event is None or isinstance(problem, SDEProblem):
        return solution
    return refine_events(event, problem, solution, saves_end=saveat.ts is None)


def integrate(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractController,
    saveat: SaveAt,
    tape: AbstractTape | None = None,
    event: Event | None = None,
    watch: bool = False,
    compiled: CompiledStep | None = None,
) -> Solution:
    """The loop itself, by one clock or by one for each sample; see `solve`."""
    if compiled is not None and (isinstance(controller, AbstractGrid) or getattr(controller, "joint", False)):
        raise ValueError("compiled= needs steps for each sample, PIDController(joint=False); leave it out")
    if compiled is not None and not stepper.compiles:
        raise ValueError(
            f"compiled= cannot trace {type(stepper).__name__}, whose steps branch by their numbers; take an explicit "
            "or a Rosenbrock method (Tsit5, Rodas5P), or leave it out"
        )
    if isinstance(controller, AbstractGrid):
        return integrate_shared(problem, stepper, GridPace(controller, problem), saveat, tape, event, watch)
    if not isinstance(controller, AbstractAdaptiveController):
        raise TypeError(
            f"controller is a {type(controller).__name__}; expected FixedGrid, ConstantSteps or PIDController"
        )
    if stepper.error_order is None:
        raise ValueError(
            f"{type(stepper).__name__} has no error estimate, which adaptive steps need; take Tsit5, Dopri5 or "
            "Bosh3, or use ConstantSteps or FixedGrid"
        )
    if not problem.repeatable:
        raise ValueError(
            f"this {type(problem).__name__} draws anew at every step, and rejecting steps would change its law; give "
            "it noise=VirtualBrownianTree(...), or use ConstantSteps or FixedGrid"
        )
    if controller.joint:
        return integrate_shared(problem, stepper, JointPace(controller, problem), saveat, tape, event)
    return integrate_samples(problem, stepper, controller, saveat, tape, event, compiled)
