"""From a method's name, options and tolerances to a stepper and a controller of the solver core."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractController, PIDController, root_mean_square
from isocline.solvers.drop_in.errors import InvalidArgumentError
from isocline.solvers.drop_in.field import Layout
from isocline.solvers.drop_in.grid import OutputGrid
from isocline.solvers.drop_in.methods import Method
from isocline.solvers.drop_in.options import AdaptiveOptions, GridOptions
from isocline.solvers.drop_in.states import TensorForm
from isocline.solvers.drop_in.watched import Watch, WatchedController, WatchedSteps, find_callbacks
from isocline.solvers.inside import InsideSteps
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["Steps", "Viewer", "Wishes", "make_steps"]

Viewer = Callable[[Tensor], Any]
"""From a batch of the core to what the caller's callbacks are told."""


@dataclass(frozen=True)
class Steps:
    """How a solve steps.

    Attributes:
        stepper: the method, watched where someone asked for it.
        plain: the same, not watched.
        controller: the steps.
    """

    stepper: AbstractStepper
    plain: AbstractStepper
    controller: AbstractController


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a caller asked for.

    Attributes:
        name: of the method.
        method: what it stands for.
        options: its own.
        rtol: relative tolerance of the flat state.
        atol: absolute tolerance.
        func: the caller's function, for callbacks and grids.
        suffix: of the callbacks' names.
        intervals: between output times; each may use up ``max_num_steps``.
    """

    name: str
    method: Method
    options: Any
    rtol: float | Tensor
    atol: float | Tensor
    func: Any
    suffix: str = ""
    intervals: int = 1


def make_steps(wishes: Wishes, layout: Layout, view: Viewer, t: Tensor | None = None) -> Steps:
    """Build stepper and controller.

    Args:
        wishes: what is wanted.
        layout: of the state.
        view: for callbacks and grids.
        t: output times for grids; None for the ends of each problem.
    """
    options = wishes.options
    stepper = wishes.method.make(options, wishes.rtol, wishes.atol)
    is_adaptive = isinstance(options, AdaptiveOptions)
    if isinstance(options, AdaptiveOptions) and options.stops("jump_t"):
        jumps = torch.tensor(options.stops("jump_t"), dtype=torch.float64)
        stepper = InsideSteps(stepper, jumps, layout.time_dtype)
    elif isinstance(options, GridOptions) and options.perturb:
        stepper = InsideSteps(stepper, None, layout.time_dtype)
    # Accepted and rejected steps are those of all samples together.
    supported = 3 if is_adaptive and not layout.form.per_sample else 1
    callbacks = find_callbacks(wishes.func, wishes.suffix, supported, wishes.name)
    min_step = float(options.min_step) if is_adaptive and not layout.form.per_sample else 0.0
    watch = Watch(callbacks, view, min_step) if callbacks or min_step else None
    watched = stepper if watch is None else WatchedSteps(stepper, watch)
    if isinstance(options, AdaptiveOptions):
        return Steps(watched, stepper, _controller(wishes, options, layout, watch))
    return Steps(watched, stepper, _grid(options, wishes, layout, view, t))


def _grid(options: GridOptions, wishes: Wishes, layout: Layout, view: Viewer, t: Tensor | None) -> OutputGrid:
    build = options.grid_constructor
    if build is None:
        return OutputGrid(None if options.step_size is None else float(options.step_size), None, t)

    def constructor(problem: AbstractProblem, times: Tensor) -> Tensor:
        if wishes.suffix:
            return build(wishes.func, view(problem.start), times)
        return build(layout.on_flat(wishes.func), layout.flat(problem.start), times)

    return OutputGrid(None, constructor, t)


def _controller(wishes: Wishes, options: AdaptiveOptions, layout: Layout, watch: Watch | None) -> PIDController:
    rtol, atol, weight = wishes.rtol, wishes.atol, None
    if isinstance(rtol, Tensor):
        # The scale atol + rtol |y| is rtol (atol / rtol + |y|), and rtol is divided by in the norm.
        weight = rtol.clamp(min=1e-12)
        rtol, atol = 1.0, atol / weight
    min_step = float(options.min_step)
    kind: Any = PIDController
    more: dict[str, Any] = {}
    if watch is not None and not layout.form.per_sample:
        kind, more = WatchedController, {"watch": watch}
    controller: PIDController = kind(
        rtol=rtol,
        atol=atol,
        pcoeff=options.pcoeff,
        icoeff=options.icoeff,
        dcoeff=options.dcoeff,
        safety=float(options.safety),
        factor_min=float(options.dfactor),
        # The controller knows no steps that never grow.
        factor_max=max(float(options.ifactor), math.nextafter(1.0, math.inf)),
        dt0=None if options.first_step is None else float(options.first_step),
        dt_min=min_step,
        dt_max=max(float(options.max_step), math.nextafter(min_step, math.inf)),
        max_steps=int(options.max_num_steps) * max(wishes.intervals, 1),
        norm=_norm(layout, options.norm, weight),
        joint=not layout.form.per_sample,
        step_ts=options.stops("step_t"),
        jump_ts=options.stops("jump_t"),
        **more,
    )
    return controller


def _norm(layout: Layout, custom: Callable[[Any], Any] | None, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
    form = layout.form
    if custom is None and weight is None and isinstance(form, TensorForm):
        return root_mean_square

    def norm(scaled: Tensor) -> Tensor:
        if weight is not None:
            scaled = scaled / weight
        if custom is None:
            return form.norm(scaled[0] if layout.is_whole else scaled)
        value = torch.as_tensor(custom(layout.state(scaled)), device=scaled.device).double()
        wanted = scaled.shape[:1] if form.per_sample else ()
        if not form.per_sample and value.numel() == 1:
            value = value.reshape(())
        if value.shape != wanted:
            raise InvalidArgumentError(
                f"options['norm'] returned shape {tuple(value.shape)}; expected {tuple(wanted)}: "
                + ("one number per sample" if form.per_sample else "one number for the whole state")
            )
        return value

    return norm
