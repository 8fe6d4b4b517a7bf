"""What a network must predict for a straight line between two states of the flow to pass through a third."""

from __future__ import annotations

from torch import Tensor

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DifferencePrediction, convert
from isocline.processes.probability_flow import LinearPathVariable
from isocline.shapes import expand_like

__all__ = ["straight_target"]

_DIFFERENCE, _VARIABLE = DifferencePrediction(), LinearPathVariable()


def straight_target(
    process: GaussianProcess, t: Tensor, start: Tensor, s: Tensor, end: Tensor, *, at: Tensor, x: Tensor
) -> Tensor:
    """Return the process's own prediction at (``at``, ``x``) of the straight line from ``start`` to ``end``.

    In `LinearPathVariable` its slope is (y_s − y_t)/(π_s − π_t), an average of ε − x_0 over [s, t].

    Args:
        process: gives the schedule and what is predicted.
        t: time of ``start``, ``(B,)`` float64.
        start: state at t, ``(B, *event)``.
        s: time of ``end``, ``(B,)``, below t.
        end: state at s.
        at: time at which the prediction is asked for, in [s, t].
        x: the state there, on the line.
    """
    positions = [_VARIABLE.position(process, time) for time in (t, s)]
    first, last = (
        _VARIABLE.from_state(process, position, state) for position, state in zip(positions, (start, end), strict=True)
    )
    slope = (last - first) / expand_like((positions[1] - positions[0]).to(x.dtype), x)
    return convert(slope, x, process.schedule(at), _DIFFERENCE, process.prediction)
