"""Bifurcations on branches of fixed points: found, located, and the branches that leave there followed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.augmented import AugmentedProblem
from isocline.dynamics.branch import Branch, BranchEvent, EventKind
from isocline.dynamics.continuation import BranchFollower, CurvePoint, as_branch
from isocline.dynamics.krylov import arnoldi_eigenpairs, jacobian_operator
from isocline.dynamics.system import AbstractSystem, check_states

__all__ = ["trace_branches"]

_LOCATED = 1e-5
_ITERATIONS = 20
_SAME = 0.2
_CHORD = 0.1


class _Task(NamedTuple):
    """A branch to follow: from where, and on which one it was found."""

    start: CurvePoint
    parent: int | None


def trace_branches(
    system: AbstractSystem,
    points: Tensor,
    t0: float,
    t1: float,
    generator: torch.Generator,
    *,
    follower: BranchFollower | None = None,
    most_branches: int = 20,
) -> tuple[Branch, ...]:
    """Follow fixed points at t0 towards t1, and from branch points also the branches that cross there.

    Folds are passed, so that a branch may come back to t0. What begins on a branch that is known already is not
    followed again. A branch that meets none of those known, not even at a bifurcation, is not found from here: start
    at the other end as well.

    Where n is at most 64, a change of the sign of the bordered Jacobian's determinant tells branch points from folds;
    beyond, a branch that turns back is called a fold and one whose number of growing modes changes without a turn has
    a branch point, if the mode does not oscillate. Of bifurcations with several modes at once one is named.

    Args:
        system: a `Flow` or `IteratedMap`, differentiable in its time too; its own time does not count.
        points: at or near fixed points at ``t0``, shape (P, *event); rows of ``cond`` belong to them.
        t0: first time.
        t1: last time, either direction.
        generator: of Arnoldi's starts, on the CPU.
        follower: the continuation's settings.
        most_branches: followed at most.

    Returns:
        Branches in the order in which they were found.

    Raises:
        TypeError, ValueError: if the points are no batch of finite states, or the times are equal.

    Source: Govaerts, Numerical Methods for Bifurcations of Dynamical Equilibria (2000), chapters 3 and 7.
    """
    check_states(points, "points")
    follower = follower or BranchFollower()
    branches: list[Branch] = []
    known: list[Tensor] = []
    with torch.no_grad():
        for row in range(len(points)):
            # Under another condition the same point is on another curve.
            known = known if system.cond is None else []
            part = system.at_rows(torch.tensor([row], device=points.device))
            problem = follower.problem(part, points[row : row + 1], t0, t1)
            begin = follower.first(problem, points[row : row + 1], t0, t1, generator)
            tasks = [] if begin is None else [_Task(begin, None)]
            while tasks and len(branches) < most_branches:
                task = tasks.pop(0)
                if any(_lies_on(task.start.u, curve, follower.step) for curve in known):
                    continue
                curve, end = follower.follow(problem, task.start, t0, t1, generator)
                events, leaving = _events(follower, problem, curve, generator)
                known.append(torch.cat([one.u for one in curve]))
                tasks += [_Task(start, len(branches)) for start in leaving]
                branch = as_branch(problem, curve, end)
                branches.append(dataclasses.replace(branch, events=tuple(events), parent=task.parent))
    return tuple(branches)


def _lies_on(u: Tensor, curve: Tensor, step: float) -> bool:
    """Whether a point (1, n + 1) is one of a curve that is known at K points, shape (K, n + 1)."""
    edges, offset = curve.diff(dim=0), u - curve[:-1]
    if not len(edges):
        return float(torch.linalg.vector_norm(u - curve[0])) <= _SAME * step
    squares = edges.square().sum(1)
    share = ((offset * edges).sum(1) / squares.clamp(min=1e-30)).clamp(0.0, 1.0)
    distance = torch.linalg.vector_norm(offset - share[:, None] * edges, dim=1)
    # A chord leaves the curve by a share of its length.
    return bool((distance <= (_CHORD * squares.sqrt()).clamp(min=_SAME * step)).any())


def _events(
    follower: BranchFollower, problem: AugmentedProblem, curve: list[CurvePoint], generator: torch.Generator
) -> tuple[list[BranchEvent], list[CurvePoint]]:
    """Bifurcations of a curve, and starts of the branches that leave at its branch points."""
    events, leaving = [], []
    for before, after in itertools.pairwise(curve):
        kind = _kind(problem, before, after)
        if kind is None:
            continue
        place = _locate(follower, problem, before, after, kind, generator)
        x, t = problem.split(place.u)
        up, turned = float(before.tangent[0, -1]) > 0, _turned(before, after)
        events.append(BranchEvent(kind, float(t), x[0], (-1 if up else 1) if turned else 0))
        if kind is EventKind.BRANCH_POINT:
            leaving += _switch(follower, problem, place, generator)
    return events, leaving


def _turned(before: CurvePoint, after: CurvePoint) -> bool:
    return float(before.tangent[0, -1]) * float(after.tangent[0, -1]) < 0


def _kind(problem: AugmentedProblem, before: CurvePoint, after: CurvePoint) -> EventKind | None:
    """What lies between two points of a curve."""
    if before.determinant and after.determinant and before.determinant[0] * after.determinant[0] < 0:
        return EventKind.BRANCH_POINT
    if _turned(before, after):
        return EventKind.FOLD
    if before.rising == after.rising:
        return None
    mode = min(before.rising, after.rising)
    pair = (before.values[mode], after.values[mode])
    value = min(pair, key=lambda one: abs(float(problem.system.growth(one))))
    if abs(float(value.imag)) > 1e-6 * float(value.abs()) + 1e-12:
        return EventKind.OSCILLATION
    # Of a map, |λ| = 1 holds at -1 as well, where the residual's Jacobian is regular.
    if problem.system.shift and float(value.real) < 0:
        return EventKind.PERIOD_DOUBLING
    return EventKind.BRANCH_POINT


def _locate(
    follower: BranchFollower,
    problem: AugmentedProblem,
    before: CurvePoint,
    after: CurvePoint,
    kind: EventKind,
    generator: torch.Generator,
) -> CurvePoint:
    """The point between where the test function of the kind vanishes, by the Illinois variant of regula falsi."""
    mode = min(before.rising, after.rising)

    def test(point: CurvePoint) -> float:
        if kind is EventKind.FOLD:
            return float(point.tangent[0, -1])
        if kind is EventKind.BRANCH_POINT and point.determinant is not None and before.determinant is not None:
            return point.determinant[0] * math.exp(min(50.0, point.determinant[1] - before.determinant[1]))
        return float(point.growths[mode])

    length = float(((after.u - before.u) * before.tangent).sum())
    low, high, f_low, f_high = 0.0, length, test(before), test(after)
    best = before if abs(f_low) < abs(f_high) else after
    for _ in range(_ITERATIONS):
        if high - low <= _LOCATED * length or f_low * f_high >= 0:
            break
        share = (low * f_high - high * f_low) / (f_high - f_low)
        roots = problem.correct(before.u + share * before.tangent, before.tangent, follower.finder)
        if not bool(roots.converged):
            break
        last = best
        best = follower.judge(problem, roots, before.tangent, generator)
        value = test(best)
        if value * f_low > 0:
            low, f_low, f_high = share, value, 0.5 * f_high
        else:
            high, f_high, f_low = share, value, 0.5 * f_low
        if float(torch.linalg.vector_norm(best.u - last.u)) <= _LOCATED * length:
            break
    if abs(float((best.tangent * before.tangent).sum())) < follower.turn:
        return _locate_on_crossing(follower, problem, best, length, generator)
    return best


def _locate_on_crossing(
    follower: BranchFollower, problem: AugmentedProblem, near: CurvePoint, length: float, generator: torch.Generator
) -> CurvePoint:
    """The branch point by the secant method on the curve that crosses, on which the corrector landed close to it."""
    mode = int(near.growths.abs().argmin())
    last, here, place, f_last = 0.1 * length, 0.0, near, None
    for _ in range(_ITERATIONS):
        f_here = float(place.growths[mode])
        if f_last is None:
            move = last
        elif f_last == f_here:
            break
        else:
            move = -f_here * (here - last) / (f_here - f_last)
        last, f_last, here = here, f_here, here + move
        roots = problem.correct(near.u + here * near.tangent, near.tangent, follower.finder)
        if not bool(roots.converged) or abs(here) > length or abs(move) <= _LOCATED * length:
            break
        place = follower.judge(problem, roots, near.tangent, generator)
    return place


def _switch(
    follower: BranchFollower, problem: AugmentedProblem, place: CurvePoint, generator: torch.Generator
) -> list[CurvePoint]:
    """Points near a branch point on the curves that meet there, the one known among them.

    All leave in the plane that the critical mode and the direction of time span: a corrector in the plane across
    either, a step away from the point, finds one of each.
    """
    mode, time = _critical_mode(problem, place, generator), torch.zeros_like(place.u)
    time[:, -1] = 1.0
    found = []
    for normal in (mode, -mode, time, -time):
        guess = place.u + follower.step * normal
        roots = problem.correct(guess, normal, follower.finder)
        near = float(torch.linalg.vector_norm(roots.points - guess)) <= follower.step
        if bool(roots.converged) and near:
            found.append(follower.judge(problem, roots, normal, generator))
    return found


def _critical_mode(problem: AugmentedProblem, place: CurvePoint, generator: torch.Generator) -> Tensor:
    """Unit vector (1, n + 1), constant in time, of the mode whose eigenvalue for the residual is nearest to 0."""
    x, t = problem.split(place.u)
    system = problem.system.at_time(float(t))
    operator = jacobian_operator(system.law, system.time(x), x, system.cond)
    pairs = arnoldi_eigenpairs(operator, len(place.values), generator)
    nearest = int((pairs.values[0] - system.shift).abs().argmin())
    vector = pairs.vectors[0, nearest]
    part = max(vector.real, vector.imag, key=lambda one: float(torch.linalg.vector_norm(one)))
    mode = torch.zeros_like(place.u)
    mode[0, :-1] = part / torch.linalg.vector_norm(part)
    return mode
