"""Events: the solve of a sample ends where a function of its time and state changes sign."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import Solution, Status

__all__ = ["Event", "crosses", "find_crossing", "refine_events"]

_ITERATIONS = 60


@dataclass(frozen=True)
class Event:
    """Ends the solve of a sample at the first sign change of ``condition`` along its solution.

    The crossing is bracketed by the ends of a step and found on the step's dense output; the step is then taken again
    up to there. A condition that is zero at the start counts from where it first differs from zero.

    Attributes:
        condition: ``condition(t, y, cond) -> (B,)``, differentiable; ``t`` of shape () or (B,).
        direction: 1 for crossings from below only, -1 from above only, 0 for both.

    Raises:
        ValueError: if ``direction`` is none of these.
    """

    condition: Callable[[Tensor, Tensor, Any], Tensor]
    direction: int = 0

    def __post_init__(self) -> None:
        if self.direction not in (-1, 0, 1):
            raise ValueError(f"direction={self.direction}; expected 1, -1 or 0")

    def evaluate(self, problem: AbstractProblem, t: Tensor, y: Tensor) -> Tensor:
        """The condition per sample, shape (B,).

        Raises:
            ValueError: if the condition does not return one value per sample.
        """
        value = self.condition(t, y, problem.cond)
        if value.shape != y.shape[:1]:
            raise ValueError(
                f"Event.condition returned shape {tuple(value.shape)}; expected ({y.shape[0]},), one value per sample"
            )
        return value


def crosses(event: Event, before: Tensor, after: Tensor) -> Tensor:
    """Which samples' condition changed sign over a step in the event's direction, bool, shape (B,)."""
    rising, falling = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
    if event.direction == 0:
        return rising | falling
    return rising if event.direction > 0 else falling


def find_crossing(
    event: Event,
    problem: AbstractProblem,
    dense: AbstractInterpolant,
    t0: Tensor,
    t1: Tensor,
    local: Tensor,
    before: Tensor,
    after: Tensor,
) -> Tensor:
    """The first share of a step at which the condition has changed sign, by the Illinois variant of regula falsi.

    Args:
        event: the condition.
        problem: the equation for the samples ``local``.
        dense: states within the step.
        t0: start of the step, shape (n,).
        t1: its end.
        local: samples of the step, int64, shape (m,).
        before: condition at ``t0`` of these samples, shape (m,).
        after: likewise at ``t1``.

    Returns:
        Shares, float64, shape (m,).

    Source: Dowell, Jarratt, A modified regula falsi method for computing the root of an equation (1971).
    """
    start, length = t0[local], (t1 - t0)[local]
    low, high = torch.zeros_like(start), torch.ones_like(start)
    f_low, f_high = before.double(), after.double()
    side = torch.zeros_like(start)
    for iteration in range(_ITERATIONS):
        theta = (low * f_high - high * f_low) / (f_high - f_low)
        middle = 0.5 * (low + high)
        # Every third halving bounds the worst case; a state that is not finite falls back on it too.
        theta = torch.where(theta.isfinite() & (theta > low) & (theta < high), theta, middle)
        theta = middle if iteration % 3 == 2 else theta
        value = event.evaluate(problem, start + theta * length, dense.evaluate(theta, local)).double()
        same = value * f_low > 0
        f_high = torch.where(same, torch.where(side > 0, 0.5 * f_high, f_high), value)
        f_low = torch.where(same, value, torch.where(side < 0, 0.5 * f_low, f_low))
        low, high = torch.where(same, theta, low), torch.where(same, high, theta)
        side = torch.where(same, 1.0, -1.0)
        exact = value == 0
        low, high = torch.where(exact, theta, low), torch.where(exact, theta, high)
        if bool((high - low <= 4e-16).all()):
            break
    return high


def refine_events(event: Event, problem: AbstractProblem, solution: Solution, saves_end: bool) -> Solution:
    """Newton's method on event times and states, from the crossing found; it carries the gradient through them.

    With ``c(t, y) = 0`` at the crossing, ``dt* = -dc / (∂c/∂t + ∂c/∂y · f)`` and the state there moves by ``f dt*``.
    Two steps of Newton, along the flow to second order, make second derivatives right as well.

    Source: Chen, Amos, Nickel, Learning Neural Event Functions for Ordinary Differential Equations (2021), section 3.

    Args:
        event: the condition.
        problem: the equation.
        solution: with event times, and states there as the last saved ones.
        saves_end: whether ``ys[-1]`` is the end state; without it only the status is known, and it is left alone.

    Returns:
        The solution with ``stopped_at`` and ``ys`` differentiable, and the evaluations counted.
    """
    places = torch.nonzero(solution.status == int(Status.EVENT)).flatten()
    if not saves_end or not len(places):
        return solution
    part = problem.at_rows(places) if problem.separable else problem
    keep = places if problem.separable else torch.arange(len(solution.status), device=places.device)
    stopped = solution.status[keep] == int(Status.EVENT)
    t, y = solution.stopped_at[keep].detach(), solution.final[keep]
    slope = part.evaluate(t, y)
    move = _newton_move(event, part, t, y, slope, stopped)
    half = expand_like(0.5 * move, y).to(y.dtype)
    t, y = t + move, y + 2 * half * part.evaluate(t + 0.5 * move, y + half * slope)
    move = _newton_move(event, part, t, y, slope.detach(), stopped)
    times = solution.stopped_at.index_copy(0, keep, t + move)
    final = solution.final.index_copy(0, keep, y + expand_like(move, y).to(y.dtype) * slope.detach())
    ys = torch.cat([solution.ys[:-1], final[None]])
    ts = solution.ts
    if ts.ndim == 2:
        ts = torch.cat([ts[:-1], times.detach()[None]])
    nfe = solution.stats.nfe.index_add(0, keep, torch.full_like(keep, 2))
    stats = dataclasses.replace(solution.stats, nfe=nfe)
    return dataclasses.replace(solution, ys=ys, stopped_at=times, ts=ts, stats=stats)


def _newton_move(
    event: Event, problem: AbstractProblem, t: Tensor, y: Tensor, slope: Tensor, stopped: Tensor
) -> Tensor:
    """``-c / (dc/dt)`` along the flow, float64, shape (n,); zero where nothing stopped or c does not change."""
    # Derivatives are recorded if anything behind them is, not for the sake of the leaves that are made here.
    recorded = torch.is_grad_enabled() and event.evaluate(problem, t, y).requires_grad
    with torch.enable_grad():
        point_t, point_y = (x if recorded and x.requires_grad else x.detach().requires_grad_() for x in (t, y))
        value = event.evaluate(problem, point_t, point_y)
        if not value.requires_grad:
            return torch.zeros_like(t)
        by_t, by_y = torch.autograd.grad(
            value.sum(), (point_t, point_y), create_graph=recorded, allow_unused=True, materialize_grads=True
        )
    value = value.double() if recorded else value.detach().double()
    rate = by_t.double() + (by_y.conj() * slope).real.reshape(len(y), -1).sum(1).double()
    moves = stopped & (rate.detach() != 0) & rate.detach().isfinite() & value.detach().isfinite()
    return torch.where(moves, -value, 0.0) / torch.where(moves, rate, 1.0)
