"""``odeint``: solve and differentiate through the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from isocline.solvers.drop_in.call import Call, EventFunction, Field
from isocline.solvers.drop_in.options import ScipyOptions
from isocline.solvers.drop_in.states import State, Tolerance
from isocline.solvers.gradient.backpropagation import Backpropagation

__all__ = ["odeint"]


def odeint(
    func: Field,
    y0: State,
    t: Tensor,
    *,
    rtol: Tolerance = 1e-7,
    atol: Tolerance = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: EventFunction | None = None,
) -> Any:
    """Solve ``dy/dt = func(t, y)`` from ``y(t[0]) = y0``, with torchdiffeq's signature.

    The whole state is one system: one step size, one error norm (root mean square; its largest over a tuple). States at
    inner times come from the method's dense output, the last one is that of a step that ends there. Gradients are found
    by backpropagation through the steps, step sizes being constants; those in ``t`` are the slopes at the output times.
    What differs from torchdiffeq is listed in docs/migrate-from-torchdiffeq.md.

    Args:
        func: ``func(t, y) -> dy/dt``; ``t`` has shape () and the real dtype of the state.
        y0: a floating or complex tensor of any shape, or a tuple of them.
        t: times, strictly increasing or decreasing, shape (K,), floating.
        rtol: relative tolerance: a number, one per element, or one per component of a tuple.
        atol: absolute tolerance, likewise.
        method: a name, dopri5 by default; a wrong one raises an error that lists all.
        options: of the method: attributes of `isocline.solvers.drop_in.options.AdaptiveOptions`, ``GridOptions`` or
            ``ScipyOptions``; and ``per_sample=True``: axis 0 is a batch of separate systems, each with its own steps.
            Samples that are done leave the batch, so that ``func`` is called with some rows only, and with one time for
            each, of shape (n, 1, …).
        event_fn: ``event_fn(t, y)``: the solve ends at the first sign change of any of its elements. Of ``t``, then of
            length two, the second element says only which way to go.

    Returns:
        the states, shape (K, *y0.shape), or a tuple of them; with ``event_fn``, the time of the event, shape (), and
        the states at start and event. With ``per_sample`` each sample has its event, ``event_fn`` returning (n,).

    Raises:
        InvalidArgumentError: (a ValueError and an AssertionError) if an argument cannot be used.
        IntegrationError: (a `SolverError` and an AssertionError) if steps underflow, run out, or meet what is not
            finite, under adaptive control; or no event is found.
        TypeError: if ``y0`` or ``t`` is not floating.
    """
    call = Call(func, y0, t, rtol, atol, method, options, event_fn)
    is_live = t.requires_grad and not isinstance(call.options, ScipyOptions)
    return call.solve(Backpropagation() if is_live else None)
