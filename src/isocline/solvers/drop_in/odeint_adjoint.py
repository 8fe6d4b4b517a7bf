"""``odeint_adjoint``: solve in constant memory and differentiate by an adjoint equation.

As in torchdiffeq, state and cotangent are solved backward from each output time to the one before it. Where the
equation contracts the state cannot be found again that way, and the gradient is wrong by any factor. So the states
found are compared with those known, and if they differ by more than one per cent, or the way back takes fifty times as
many steps as the way there, the gradient is found by `CheckpointedAdjoint`: the exact one of the discrete solution, in
the memory of O(√N) states for N steps and the time of two more solves. Constant memory where it works, which is the
common case and why one calls this function, and a right gradient in any case.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isocline.solvers.controller import AbstractController
from isocline.solvers.drop_in.call import Call, EventFunction, Field
from isocline.solvers.drop_in.errors import InvalidArgumentError
from isocline.solvers.drop_in.field import Layout
from isocline.solvers.drop_in.guarded import GuardedAdjoint
from isocline.solvers.drop_in.methods import DEFAULT, find_method
from isocline.solvers.drop_in.options import ScipyOptions, parse_options
from isocline.solvers.drop_in.states import State, Tolerance
from isocline.solvers.drop_in.steps import Steps, Wishes, make_steps
from isocline.solvers.gradient.backsolve import BacksolveAdjoint
from isocline.solvers.gradient.base import AbstractAdjoint
from isocline.solvers.gradient.checkpointed import CheckpointedAdjoint
from isocline.solvers.gradient.discrete import DiscreteAdjoint
from isocline.solvers.gradient.interpolated import InterpolatedAdjoint
from isocline.solvers.loop import integrate as core
from isocline.solvers.stepper import AbstractStepper

__all__ = ["odeint_adjoint"]


def odeint_adjoint(
    func: Field,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunction | None = None,
    adjoint_rtol: Tolerance | None = None,
    adjoint_atol: Tolerance | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """As `isocline.solvers.odeint`, with gradients by an adjoint equation, in memory that no number of steps adds to.

    Where the state cannot be found again on the way back, there is an `AdjointWarning`, and the gradient is found by
    `CheckpointedAdjoint` (see the module's docstring). The parameters' part is a quadrature over the steps and takes
    no part in the error norm, by default too (``norm="seminorm"`` changes nothing). Gradients in ``t`` are the slopes
    at output times.

    Args:
        func: a module; or anything, with ``adjoint_params``.
        y0: start.
        t: times.
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: of the way there.
        options: of the method.
        event_fn: see `isocline.solvers.odeint`.
        adjoint_rtol: of the way back; by default as on the way there.
        adjoint_atol: likewise.
        adjoint_method: likewise; for scipy_solver it is dopri5.
        adjoint_options: of that method; by default ``options`` without ``norm``. A ``norm`` of the caller's is handed
            ``(t, y, adj_y, *adj_params)``, tuples of states laid out in place, where those of t and parameters are
            zero. Besides, "gradient" is one of "backsolve" (the default), "interpolated", "checkpointed" and
            "discrete", see `isocline.solvers.gradient`; ``check=False`` believes any result.
        adjoint_params: what to differentiate by besides ``y0`` and ``t``; by default the module's parameters.

    Returns:
        as `isocline.solvers.odeint`.

    Raises:
        InvalidArgumentError: as `isocline.solvers.odeint`; if there is no module and no ``adjoint_params``; or if
            ``adjoint_options`` cannot be inferred, as the methods differ.
        IntegrationError: as `isocline.solvers.odeint`.
        TypeError: likewise.

    Source: Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations (2018); Kidger, Chen, Lyons,
    "Hey, that's not an ODE": faster ODE adjoints via seminorms (2021).
    """
    named = _find_parameters(func) if adjoint_params is None else tuple(adjoint_params)
    back = adjoint_method or method or DEFAULT
    wanted = _options_back(options, adjoint_options, method or DEFAULT, back)
    call = Call(func, y0, t, rtol, atol, method, options, event_fn, is_whole=True)
    tolerances = (rtol if adjoint_rtol is None else adjoint_rtol, atol if adjoint_atol is None else adjoint_atol)
    return call.solve(_gradient(call, back, wanted, tolerances, _differentiable(named, wanted)))


def _options_back(
    options: Mapping[str, Any] | None, given: Mapping[str, Any] | None, there: str, back: str
) -> dict[str, Any]:
    if given is not None:
        return dict(given)
    if options is not None and back != there:
        raise InvalidArgumentError(
            f"adjoint_method={back!r} is not method={there!r}, whose options cannot be handed on to it; "
            "give adjoint_options"
        )
    return {key: value for key, value in (options or {}).items() if key != "norm"}


def _gradient(
    call: Call,
    name: str,
    options: dict[str, Any],
    tolerances: tuple[Tolerance, Tolerance],
    parameters: tuple[Tensor, ...],
) -> GuardedAdjoint:
    kind, check = options.pop("gradient", "backsolve"), bool(options.pop("check", True))
    options.pop("per_sample", None)
    norm = options.pop("norm", None)
    is_scipy = isinstance(call.options, ScipyOptions)
    if norm is not None and norm != "seminorm" and not callable(norm):
        raise InvalidArgumentError(f"adjoint_options['norm']={norm!r}; expected 'seminorm' or a function")
    if norm is None or norm == "seminorm":
        # The forward norm is that of state and cotangent; the parameters take no part anyway.
        pair, forward_norm = None, getattr(call.options, "norm", None)
    else:
        pair, forward_norm = _pair_norm(norm, call, parameters), None
    if forward_norm is not None and not is_scipy:
        options["norm"] = forward_norm
    back = _steps_back(call, name, options, tolerances)
    adjoint = _adjoint(kind, back.stepper, back.controller, check)
    plain = back.plain if is_scipy else call.steps().plain
    return GuardedAdjoint(adjoint, parameters, plain, pair, core if is_scipy else None, check)


def _adjoint(kind: Any, stepper: AbstractStepper, controller: AbstractController, check: bool) -> AbstractAdjoint:
    if kind == "backsolve":
        return BacksolveAdjoint(stepper, controller, check=check)
    if kind == "interpolated":
        return InterpolatedAdjoint(stepper, controller)
    if kind == "checkpointed":
        return CheckpointedAdjoint()
    if kind == "discrete":
        return DiscreteAdjoint()
    raise InvalidArgumentError(
        f"adjoint_options['gradient']={kind!r}; expected 'backsolve', 'interpolated', 'checkpointed' or 'discrete'"
    )


def _steps_back(call: Call, name: str, options: dict[str, Any], tolerances: tuple[Tolerance, Tolerance]) -> Steps:
    method = find_method(name)
    if method.kind is ScipyOptions:
        # The way back needs to see every step.
        name, method, options = DEFAULT, find_method(DEFAULT), {}
    parsed: Any = parse_options(method.kind, name, options, method.extra)  # type: ignore[type-var]
    call.check_stops(parsed)
    rtol, atol = call.tolerances(*tolerances)
    wishes = Wishes(name=name, method=method, options=parsed, rtol=rtol, atol=atol, func=call.func, suffix="_adjoint")
    layout = call.layout
    return make_steps(wishes, layout, lambda z: _pair(layout, z))


def _pair(layout: Layout, z: Tensor) -> tuple[Any, ...]:
    """State and cotangent as the caller knows them, from those stacked behind the batch axis."""
    return layout.state(z[:, 0]), layout.state(z[:, 1])


def _pair_norm(norm: Callable[[Any], Any], call: Call, parameters: tuple[Tensor, ...]) -> Callable[[Tensor], Tensor]:
    layout = call.layout
    if layout.form.per_sample:
        raise InvalidArgumentError("adjoint_options['norm'] and per_sample=True exclude one another; leave one out")
    zeros = tuple(torch.zeros_like(tensor, requires_grad=False) for tensor in parameters)

    def pair_norm(scaled: Tensor) -> Tensor:
        has_both = scaled.ndim > call.start.ndim
        both = _pair(layout, scaled) if has_both else (layout.state(torch.zeros_like(scaled)), layout.state(scaled))
        spread = [part for state in both for part in (state if isinstance(state, tuple) else (state,))]
        time = torch.zeros((), dtype=scaled.dtype, device=scaled.device)
        value = torch.as_tensor(norm((time, *spread, *zeros)), device=scaled.device).double()
        return value.reshape(()) if value.numel() == 1 else value

    return pair_norm


def _find_parameters(func: Any) -> tuple[Tensor, ...]:
    if not isinstance(func, nn.Module):
        raise InvalidArgumentError(
            f"func is a {type(func).__name__}; func must be an instance of nn.Module, or its parameters have to be "
            "given as adjoint_params: adjoint_params=() if there are none"
        )
    if not getattr(func, "_is_replica", False):
        return tuple(func.parameters())
    # A replica of DataParallel holds tensors in place of its parameters.
    held = (tensor for part in func.modules() for tensor in vars(part).values())
    return tuple(tensor for tensor in held if isinstance(tensor, Tensor) and tensor.requires_grad)


def _differentiable(named: tuple[Tensor, ...], options: Mapping[str, Any]) -> tuple[Tensor, ...]:
    parameters = tuple(tensor for tensor in named if tensor.requires_grad)
    if len(parameters) < len(named) and callable(options.get("norm")):
        warnings.warn(
            "an adjoint parameter does not require grad; it is left out, of the norm in adjoint_options as well",
            stacklevel=3,
        )
    return parameters
