"""One call of the drop-in interface: its arguments checked, and put in terms of the solver core."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractController, AbstractGrid, PIDController
from isocline.solvers.drop_in.errors import InvalidArgumentError, check_solution
from isocline.solvers.drop_in.field import Layout
from isocline.solvers.drop_in.grid import EventGrid, LinearOutputs
from isocline.solvers.drop_in.guarded import GuardedAdjoint
from isocline.solvers.drop_in.methods import DEFAULT, find_method
from isocline.solvers.drop_in.options import AdaptiveOptions, GridOptions, ScipyOptions, parse_options
from isocline.solvers.drop_in.scipy_solver import solve_by_scipy
from isocline.solvers.drop_in.states import State, TensorForm, Tolerance, TupleForm, form_of
from isocline.solvers.drop_in.steps import Steps, Wishes, make_steps
from isocline.solvers.drop_in.watched import find_callbacks
from isocline.solvers.event import Event
from isocline.solvers.explicit import Dopri5
from isocline.solvers.gradient.base import AbstractGradient
from isocline.solvers.loop import solve
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt, Solution, Status
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape

__all__ = ["Call", "EventFunction", "Field"]

Field = Callable[[Tensor, Any], Any]
"""``func(t, y) -> dy/dt`` on the caller's state."""

EventFunction = Callable[[Tensor, Any], Tensor]
"""``event_fn(t, y)``, whose sign change ends the solve."""


class Call:
    """Arguments of one solve.

    Attributes:
        name: of the method.
        layout: of the state.
        options: of the method.
        form: of the state.
        start: the batch to begin with.
    """

    def __init__(
        self,
        func: Field,
        y0: State,
        t: Tensor,
        rtol: Tolerance,
        atol: Tolerance,
        method: str | None,
        options: Mapping[str, Any] | None,
        event_fn: EventFunction | None,
        *,
        is_whole: bool = False,
    ) -> None:
        """Check and convert; see `isocline.solvers.odeint`.

        Args:
            func: the field.
            y0: start.
            t: times.
            rtol: relative tolerance.
            atol: absolute tolerance.
            method: name.
            options: of the method.
            event_fn: ends the solve.
            is_whole: never integrate a tensor as its own batch.
        """
        given = dict(options or {})
        per_sample = bool(given.pop("per_sample", False))
        self.name, self.method = method or DEFAULT, find_method(method)
        self.options = parse_options(self.method.kind, self.name, given, self.method.extra)  # type: ignore[type-var]
        # A copy: the way back needs the times as they were.
        self.func, self.y0, self.t = func, y0, _check_times(t, event_fn is not None).clone()
        self.check_stops(self.options)
        self.form = form = form_of(y0, per_sample)
        start = form.flatten(y0)
        self._flat = start
        self.rtol, self.atol = self.tolerances(rtol, atol)
        is_bare = (
            isinstance(form, TensorForm)
            and not (per_sample or is_whole or self.method.is_whole or event_fn is not None)
            and self.method.kind is not ScipyOptions
            and start.ndim > 0
            and start.numel() > 0
            and not isinstance(self.rtol, Tensor)
            and not isinstance(self.atol, Tensor)
        )
        self.layout = Layout(form, start.dtype, is_bare)
        self.start = start[None] if self.layout.is_whole else start
        # As there: in the precision of adaptive steps, or in that of the state on a grid.
        dtype = torch.float64 if self.method.kind is AdaptiveOptions else self.layout.time_dtype
        self.event = None if event_fn is None else Event(_Condition(event_fn, self.layout, dtype))

    def check_stops(self, options: Any) -> None:
        """Look for times that ``step_t`` and ``jump_t`` name twice."""
        if isinstance(options, AdaptiveOptions):
            options.check_stops(float(self.t[0].detach()), self.sign)

    def tolerances(self, rtol: Tolerance, atol: Tolerance) -> tuple[float | Tensor, float | Tensor]:
        """Tolerances of the flat state."""
        found = [
            _check_tolerance(name, self.form.tolerance(name, value), self._flat, self.form.per_sample)
            for name, value in (("rtol", rtol), ("atol", atol))
        ]
        return found[0], found[1]

    @property
    def sign(self) -> float:
        """Direction of time."""
        return -1.0 if len(self.t) > 1 and bool(self.t[0] > self.t[1]) else 1.0

    def steps(self) -> Steps:
        """Stepper and controller."""
        t = self.t.detach()
        return make_steps(self._wishes(), self.layout, self.layout.state, t if self.event is None else None)

    def solve(self, gradient: AbstractGradient | None) -> Any:
        """Solve, with the states at all times; or up to an event, with its time.

        Args:
            gradient: how derivatives are found; None for the default of the solver core, times being constants.

        Raises:
            IntegrationError: if the solve does not reach its end.
        """
        if self.event is not None:
            return self._until_event(self.event, gradient)
        if len(self.t) == 1:
            if isinstance(gradient, GuardedAdjoint):
                return self.layout.saved(gradient.unmoved(self.start, self.t))
            return self.layout.saved(self.start[None].clone())
        live = self.t.requires_grad and torch.is_grad_enabled() and gradient is not None
        times = self.t.double() if live else self.t.detach().double()
        ends = times.detach()
        start = self._own_start()
        problem = self.layout.problem(self.func, start, times[0] if live else float(ends[0]), float(ends[-1]))
        # The first state is the start whatever its time, of which no derivative is wanted.
        ys = self._integrate(problem, times[1:] if live else times, gradient)
        if live:
            ys = torch.cat([self.start[None], ys])
        elif not start.is_inference() and start._version:
            ys = torch.cat([self.start[None], ys[1:]])
        return self.layout.saved(ys)

    def _own_start(self) -> Tensor:
        """The start, a copy where the caller's function gets views of it, which it may change in place."""
        return self.start.clone() if isinstance(self.form, TupleForm) else self.start

    def _integrate(self, problem: AbstractProblem, ts: Tensor, gradient: AbstractGradient | None) -> Tensor:
        if isinstance(self.options, ScipyOptions):
            return self._by_scipy(self.options, problem, SaveAt(ts=ts), gradient)
        steps = self.steps()
        if not isinstance(self.options, GridOptions) or self.options.interp == "cubic":
            solution = solve(problem, steps.stepper, steps.controller, SaveAt(ts=ts), gradient=gradient)
            self._check(solution)
            return solution.ys
        assert isinstance(steps.controller, AbstractGrid)
        outputs = LinearOutputs(steps.controller.times(problem).tolist(), ts)
        solution = solve(problem, steps.stepper, steps.controller, outputs.saveat, gradient=gradient)
        self._check(solution)
        return outputs.read(solution.ys)

    def _by_scipy(
        self, options: ScipyOptions, problem: AbstractProblem, saveat: SaveAt, gradient: AbstractGradient | None
    ) -> Tensor:
        if self.layout.form.per_sample:
            raise InvalidArgumentError("scipy_solver has one step size for the whole state; leave per_sample out")
        find_callbacks(self.func, "", 0, self.name)

        def integrate(
            problem: AbstractProblem,
            stepper: AbstractStepper,
            controller: AbstractController,
            saveat: SaveAt,
            tape: AbstractTape | None = None,
            *,
            event: Event | None = None,
        ) -> Solution:
            return solve_by_scipy(problem, saveat.times, self.rtol, self.atol, options)

        # Neither stepper nor controller is used, except that a gradient asks them for their kind.
        stepper, controller = Dopri5(), PIDController(joint=True)
        if gradient is None:
            return integrate(problem, stepper, controller, saveat).ys
        return gradient.solve(problem, stepper, controller, saveat, integrate).ys

    def _until_event(self, event: Event, gradient: AbstractGradient | None) -> tuple[Tensor, State]:
        live = self.t.requires_grad and torch.is_grad_enabled() and gradient is not None
        first = self.t[0].double() if live else float(self.t[0].detach())
        start = float(self.t[0].detach())
        if isinstance(self.options, ScipyOptions):
            raise InvalidArgumentError("scipy_solver finds no events; take a method of ours, dopri5 or auto")
        steps, end = self.steps(), self.sign * math.inf
        controller = steps.controller
        if isinstance(self.options, GridOptions):
            if self.options.step_size is None:
                raise InvalidArgumentError(
                    f"{self.name}: an event is looked for step by step; give options=dict(step_size=…)"
                )
            grid = EventGrid(start, self.sign * float(self.options.step_size))
            controller, end = grid, grid.end
        problem = self.layout.problem(self.func, self._own_start(), first, end)
        solution = solve(problem, steps.stepper, controller, gradient=gradient, event=event)
        check_solution(solution, self.name, self.layout.form.per_sample, wants_event=True)
        times = solution.stopped_at if self.layout.form.per_sample else solution.stopped_at[0]
        ys = torch.stack([self.start, solution.final])
        return times.to(self.t), self.layout.saved(ys)

    def _wishes(self) -> Wishes:
        return Wishes(
            name=self.name,
            method=self.method,
            options=self.options,
            rtol=self.rtol,
            atol=self.atol,
            func=self.func,
            intervals=len(self.t) - 1,
        )

    def _check(self, solution: Solution) -> None:
        if isinstance(self.options, AdaptiveOptions):
            check_solution(solution, self.name, self.layout.form.per_sample, wants_event=False)
        elif self.method.is_whole and bool((solution.status == int(Status.STEP_FAILED)).any()):
            warnings.warn(
                f"{self.name}: Newton's iteration did not converge in some step, so that the result is not to be "
                "trusted; take smaller steps, or raise max_iters",
                stacklevel=5,
            )


class _Condition:
    """The caller's event function in the layout of the core.

    Of several values the first to change its sign counts. A value that is zero at the start has no sign until it
    differs from zero.
    """

    def __init__(self, function: EventFunction, layout: Layout, dtype: torch.dtype) -> None:
        self._function, self._layout, self._dtype = function, layout, dtype
        self._signs: Tensor | None = None

    def __call__(self, t: Tensor, y: Tensor, cond: Any) -> Tensor:
        layout = self._layout
        value = torch.as_tensor(self._function(layout.time(t, self._dtype), layout.state(y)), device=y.device)
        if layout.form.per_sample:
            return value.reshape(len(y)) if value.numel() == len(y) else value
        value = value.reshape(-1)
        if len(value) == 1:
            return value
        signs = value.detach().sign()
        self._signs = signs if self._signs is None else torch.where(self._signs == 0, signs, self._signs)
        known = self._signs != 0
        if not bool(known.any()):
            return torch.zeros_like(value[:1])
        return torch.where(known, value * self._signs, torch.inf).amin().reshape(1)


def _check_times(t: Any, has_event: bool) -> Tensor:
    if not isinstance(t, Tensor):
        raise InvalidArgumentError(f"t is a {type(t).__name__}; t must be a torch.Tensor: torch.tensor([0.0, 1.0])")
    if not t.is_floating_point():
        raise TypeError(f"`t` must be a floating point Tensor but is a {t.dtype}: call .double()")
    if t.ndim != 1 or not len(t):
        raise InvalidArgumentError(f"t has shape {tuple(t.shape)}; t must be one dimensional, and not empty")
    if has_event and len(t) != 2:
        raise InvalidArgumentError(
            f"We require len(t) == 2 when in event handling mode, but got len(t)={len(t)}; give a start, and any time "
            "on the side to which to integrate"
        )
    steps = t.detach().diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())) or not bool(t.detach().isfinite().all()):
        shown = t.detach().tolist()
        shown = [*shown[:6], "..."] if len(shown) > 6 else shown
        raise InvalidArgumentError(f"t={shown} must be strictly increasing or decreasing; sort it, drop repeated times")
    return t


def _check_tolerance(name: str, value: float | Tensor, start: Tensor, per_sample: bool) -> float | Tensor:
    if not isinstance(value, Tensor):
        return value
    shape = start.shape[1:] if per_sample else start.shape
    try:
        return value.to(start.device).expand(shape)
    except RuntimeError as error:
        raise InvalidArgumentError(
            f"{name} has shape {tuple(value.shape)}, which does not broadcast to {tuple(shape)}; give a number, or one "
            "for each element"
        ) from error
