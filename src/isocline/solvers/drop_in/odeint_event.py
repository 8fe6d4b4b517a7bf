"""``odeint_event``: solve up to an event, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.drop_in.call import EventFunction, Field
from isocline.solvers.drop_in.odeint import odeint
from isocline.solvers.drop_in.states import State

__all__ = ["odeint_event"]


def odeint_event(
    func: Field,
    y0: State,
    t0: Tensor,
    *,
    event_fn: EventFunction,
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> Any:
    """Solve from ``t0`` until ``event_fn(t, y)`` changes its sign; differentiable in everything.

    The time of the event is refined by a Newton step, which carries the gradient of time and state through it; so do
    ``odeint`` and ``odeint_adjoint`` with ``event_fn``, which this function calls.

    Source: Chen, Amos, Nickel, Learning Neural Event Functions for Ordinary Differential Equations (2021).

    Args:
        func: see `isocline.solvers.odeint`.
        y0: start.
        t0: its time, a tensor with one element.
        event_fn: see `isocline.solvers.odeint`.
        reverse_time: whether to go backward in time.
        odeint_interface: `isocline.solvers.odeint` or `isocline.solvers.odeint_adjoint`, or a wrapper of one.
        kwargs: handed to it.

    Returns:
        the time of the event, shape (), and the states at start and event, shape (2, *y0.shape).

    Raises:
        InvalidArgumentError: as `isocline.solvers.odeint`.
        IntegrationError: likewise.
    """
    start = torch.as_tensor(t0).reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
