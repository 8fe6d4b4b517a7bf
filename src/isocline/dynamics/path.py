"""Solutions of a field at chosen times: where its derivatives are then asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers import AbstractStepper, Dopri5, ODEProblem, PIDController, SaveAt, VectorField, solve_strict

__all__ = ["FieldPath", "follow"]


@dataclass(frozen=True, eq=False)
class FieldPath:
    """States of B samples at K times, in the order of integration.

    Attributes:
        ts: strictly monotone in either direction, float64, shape (K,).
        states: shape (K, B, *event).
    """

    ts: Tensor
    states: Tensor

    def __post_init__(self) -> None:
        if self.ts.ndim != 1 or len(self.ts) != len(self.states):
            raise ValueError(f"ts has shape {tuple(self.ts.shape)} for {len(self.states)} states; give one time each")
        _check_order(self.ts)

    @property
    def direction(self) -> float:
        """1 where time runs forward, -1 where it runs backward."""
        return -1.0 if len(self.ts) > 1 and float(self.ts[-1]) < float(self.ts[0]) else 1.0

    @property
    def span(self) -> float:
        """Time covered, not negative."""
        return abs(float(self.ts[-1]) - float(self.ts[0]))

    @property
    def size(self) -> int:
        """Components of one sample."""
        return self.states[0, 0].numel()


def follow(
    field: VectorField,
    x0: Tensor,
    ts: Sequence[float] | Tensor,
    cond: Any = None,
    *,
    stepper: AbstractStepper | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-4,
    max_steps: int = 10_000,
) -> FieldPath:
    """Solve from the first time on, and keep the states at all of them.

    The default tolerances give typical states, which is all that derivatives along a path need.

    Args:
        field: ``f(t, x, cond) -> dx``.
        x0: states at ``ts[0]``, shape (B, *event).
        ts: at least two strictly monotone times, in either direction.
        cond: handed to the field.
        stepper: an adaptive method; `Dopri5` by default.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: that one sample may use.

    Raises:
        ValueError: if there are fewer than two times, or they are not monotone.
        SolverError: if a sample does not reach the last time.
    """
    times = torch.as_tensor(ts, dtype=torch.float64, device="cpu")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"ts has shape {tuple(times.shape)}; expected at least two times in one dimension")
    _check_order(times)
    problem = ODEProblem(field, x0, float(times[0]), float(times[-1]), cond)
    controller = PIDController(rtol=rtol, atol=atol, max_steps=max_steps)
    with torch.no_grad():
        solution = solve_strict(problem, Dopri5() if stepper is None else stepper, controller, SaveAt(times))
    return FieldPath(times, solution.ys)


def _check_order(ts: Tensor) -> None:
    steps = ts.diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ValueError(f"ts={ts.tolist()} is not strictly monotone; sort it and drop repeated times")
