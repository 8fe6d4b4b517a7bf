"""Gradients with respect to t0, t1 and save times, the same for every gradient method.

Times enter a solve as constants. Where one requires grad, a step of length zero from its value to itself is put before
the start or after the saved state: the value is unchanged, and the derivative with respect to the length is the slope.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.gradient.inputs import with_start
from isocline.solvers.problem import AbstractProblem, MarkovProblem, SDEProblem, Time
from isocline.solvers.solution import SaveAt, Solution, Status

__all__ = ["LiveTimes", "detach_times"]


@dataclass(frozen=True, eq=False)
class LiveTimes:
    """Times of a solve, some of which require grad.

    Attributes:
        t0: start, float64, shape () or (B,).
        t1: end.
        ts: save times, shape (K,), or None.
        every: whether each point of the grid is saved.
        nfe: calls of the field at the start.
    """

    t0: Tensor
    t1: Tensor
    ts: Tensor | None
    every: bool
    nfe: int

    def attach(self, problem: AbstractProblem, solution: Solution) -> Solution:
        """Make saved states differentiable in their times: ``y + (t - sg(t)) f(t, y)`` to second order.

        Args:
            problem: the equation.
            solution: its solution at constant times, of shape (K, B, *event).

        Returns:
            The solution with the same values, and the calls counted.
        """
        moves = self._moves(solution)
        count = self.nfe
        ys = solution.ys
        if moves is not None:
            states = []
            for time, move, y in zip(solution.ts.unbind(0), moves.unbind(0), ys.unbind(0), strict=True):
                # The field is not asked about the NaN of a sample that did not get there.
                known = torch.where(y.detach().isfinite(), y, problem.start.detach())
                states.append(y + _rise(problem, time, move, known))
            ys = torch.stack(states)
            count += 2 * len(states)
        stats = dataclasses.replace(solution.stats, nfe=solution.stats.nfe + count)
        stopped = solution.stopped_at
        if self.t1.requires_grad:
            stopped = stopped + self._end(solution).to(stopped.device)
        return dataclasses.replace(solution, ys=ys, stats=stats, stopped_at=stopped)

    def _end(self, solution: Solution) -> Tensor:
        """``t1 - sg(t1)`` of samples that got there; one that ended before, at an event, does not depend on it."""
        status = solution.status
        return torch.where(status == int(Status.SUCCESS), _zero(self.t1).to(status.device), 0.0)

    def _moves(self, solution: Solution) -> Tensor | None:
        """``t - sg(t)`` of every save time, shape (K,) or (K, B); None if no save time requires grad."""
        ts = solution.ts
        if self.ts is not None:
            return _zero(self.ts) if self.ts.requires_grad else None
        t0, t1 = (time.to(ts.device) for time in (self.t0, self.t1))
        if self.every:
            if not (t0.requires_grad or t1.requires_grad):
                return None
            # The points of a grid move with its ends.
            share = ((ts - t0.detach()) / (t1 - t0).detach()).nan_to_num(nan=0.0)
            return (1 - share) * _zero(t0) + share * _zero(t1)
        return self._end(solution)[None] if t1.requires_grad else None


def detach_times(problem: AbstractProblem, saveat: SaveAt) -> tuple[AbstractProblem, SaveAt, LiveTimes | None]:
    """Take the gradient out of a problem's times.

    Args:
        problem: the equation; its times may require grad.
        saveat: save times, which may require grad.

    Returns:
        The problem at constant times, its start moved by ``-(t0 - sg(t0)) f(t0, y0)`` if t0 requires grad; the save
        times as constants; and what to attach to the solution, None if no time requires grad.

    Raises:
        ValueError: if a time requires grad and the problem is not an ordinary differential equation.
    """
    found = [problem.t0, problem.t1, saveat.ts]
    wanted = [isinstance(time, Tensor) and time.requires_grad for time in found]
    if not any(wanted) or not torch.is_grad_enabled():
        return problem, saveat, None
    if isinstance(problem, SDEProblem | MarkovProblem):
        raise ValueError(
            f"a time of this {type(problem).__name__} requires grad; only an ordinary differential equation has a "
            "derivative in its times: detach them"
        )
    t0, t1 = _double(problem.t0), _double(problem.t1)
    start, nfe = problem.start, 0
    if t0.requires_grad:
        move = -_zero(t0).to(start.device)
        start = start + _rise(problem, t0.to(start.device), move, start)
        nfe = 2
    ts = saveat.ts
    if wanted[2]:
        assert isinstance(ts, Tensor)
        saveat = dataclasses.replace(saveat, ts=ts.detach())
    live = LiveTimes(t0, t1, _double(ts).to(start.device) if isinstance(ts, Tensor) else None, saveat.steps, nfe)
    if ts is not None and live.ts is None:
        live = dataclasses.replace(live, ts=saveat.times.to(start.device))
    return with_start(problem, start, t0=_constant(problem.t0), t1=_constant(problem.t1)), saveat, live


def _rise(problem: AbstractProblem, time: Tensor, move: Tensor, y: Tensor) -> Tensor:
    """The midpoint rule's step from ``time`` over ``move``, whose value is zero: right to its second derivative."""
    h = expand_like(move, y).to(y.dtype)
    slope = problem.evaluate(time, y)
    return h * problem.evaluate(time + 0.5 * move, y + 0.5 * h * slope)


def _zero(time: Tensor) -> Tensor:
    return time - time.detach()


def _double(time: Time) -> Tensor:
    return torch.as_tensor(time, dtype=torch.float64)


def _constant(time: Time) -> Time:
    return time.detach() if isinstance(time, Tensor) else time
