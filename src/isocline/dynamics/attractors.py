"""Where trajectories end: fixed points, limit cycles, or nothing that has settled."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.distinct import group_points, spread
from isocline.dynamics.system import IteratedMap, check_states, row_rms

__all__ = ["Attractors", "LimitKind", "LimitSets", "distinct_attractors", "map_limits", "orbit_distance"]


class LimitKind(enum.IntEnum):
    """What a trajectory came to."""

    FIXED_POINT = 0
    CYCLE = 1
    UNSETTLED = 2
    ESCAPED = 3

    @property
    def explanation(self) -> str:
        """What was seen."""
        return {
            LimitKind.FIXED_POINT: "came to rest",
            LimitKind.CYCLE: "came back to where it was",
            LimitKind.UNSETTLED: "neither rests nor returns: chaos, several frequencies, or too short a time",
            LimitKind.ESCAPED: "left all bounds, or the solver gave up",
        }[self]


@dataclass(frozen=True)
class LimitSets:
    """The ω-limit sets that B trajectories settled on.

    Attributes:
        kinds: `LimitKind`, int64, shape (B,).
        points: a point of the set (of a trajectory that did not settle, its last state), shape (B, *event).
        periods: of a cycle, in the flow's time or in iterations; 0 at rest, NaN otherwise; float64, shape (B,).
        residuals: distance left, root mean square per entry: from the estimated limit at rest, from the state one
            period earlier on a cycle; NaN otherwise; float64, shape (B,).
        orbits: S states along the cycle, evenly in time, the first of them ``points``; elsewhere S times ``points``;
            shape (S, B, *event).
        evaluations: of the law, int64, shape (B,).
    """

    kinds: Tensor
    points: Tensor
    periods: Tensor
    residuals: Tensor
    orbits: Tensor
    evaluations: Tensor

    @property
    def settled(self) -> Tensor:
        """Bool, shape (B,)."""
        return self.kinds <= int(LimitKind.CYCLE)

    def count(self, kind: LimitKind) -> int:
        """How many trajectories came to that."""
        return int((self.kinds == int(kind)).sum())


@dataclass(frozen=True)
class Attractors:
    """The P distinct limit sets among many.

    Attributes:
        kinds: `LimitKind`, int64, shape (P,).
        points: shape (P, *event).
        periods: float64, shape (P,).
        orbits: shape (S, P, *event).
        hits: trajectories that settled on each, falling, int64, shape (P,).
        sources: a trajectory that did, int64, shape (P,).
        members: attractor of each trajectory, -1 where it did not settle, int64, shape (B,).
    """

    kinds: Tensor
    points: Tensor
    periods: Tensor
    orbits: Tensor
    hits: Tensor
    sources: Tensor
    members: Tensor


def map_limits(
    system: IteratedMap, starts: Tensor, iterations: int, *, tolerance: float = 1e-4, longest: int = 8
) -> LimitSets:
    """Iterate a map from every start until it rests or returns.

    With steps ``d_n = |x_{n+1} - x_n|`` that shrink by ``ρ = d_n / d_{n-1}``, the limit is about ``d_n ρ / (1 - ρ)``
    further on: the start is done when that and the last two steps are within the tolerance. What is left after all
    iterations is looked at for cycles of up to ``longest`` states.

    Args:
        system: for instance a denoiser's ``data`` at one time.
        starts: shape (B, *event).
        iterations: most iterations.
        tolerance: distance that counts as none, in units of the starts' spread.
        longest: largest period.

    Raises:
        TypeError, ValueError: if the starts are no batch of finite states, or a number is not positive.
    """
    check_states(starts, "starts")
    if iterations < 1 or longest < 1 or tolerance <= 0:
        raise ValueError(f"iterations={iterations}, longest={longest}, tolerance={tolerance}; expected positive values")
    bound = tolerance * spread(starts)
    x, last = starts.clone(), torch.full((len(starts),), torch.inf, dtype=torch.float64, device=starts.device)
    kinds = torch.full((len(starts),), int(LimitKind.UNSETTLED), dtype=torch.int64, device=starts.device)
    residuals, evaluations = torch.full_like(last, torch.nan), torch.zeros_like(kinds)
    with torch.no_grad():
        for _ in range(iterations):
            rows = torch.nonzero(kinds == int(LimitKind.UNSETTLED)).flatten()
            if not len(rows):
                break
            part = system.at_rows(rows)
            fresh = part.law(part.time(x), x[rows], part.cond)
            step = row_rms(fresh - x[rows])
            before = last[rows]
            ratio = (step / before).nan_to_num(nan=0.0)
            left = torch.where(ratio < 1, step * ratio / (1 - ratio).clamp(min=1e-12), torch.inf)
            x[rows], last[rows] = fresh, step
            evaluations[rows] += 1
            rests = (step <= bound) & (before <= bound) & (left <= bound)
            kinds[rows[rests]], residuals[rows[rests]] = int(LimitKind.FIXED_POINT), left[rests]
            kinds[rows[~fresh.flatten(1).isfinite().all(1)]] = int(LimitKind.ESCAPED)
        limits = LimitSets(kinds, x, torch.where(kinds == 0, 0.0, torch.nan).double(), residuals, x[None], evaluations)
        return _with_cycles(system, limits, longest, bound)


def _with_cycles(system: IteratedMap, limits: LimitSets, longest: int, bound: float) -> LimitSets:
    """Follow what has not come to rest for ``longest`` more iterations and take the first return."""
    rows = torch.nonzero(limits.kinds == int(LimitKind.UNSETTLED)).flatten()
    orbits = limits.points[None].repeat(longest, *[1] * limits.points.ndim)
    if len(rows):
        part, here = system.at_rows(rows), limits.points[rows]
        open_ = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        x, found = here, torch.full_like(rows, longest)
        for step in range(1, longest + 1):
            orbits[step - 1, rows] = x
            x = part.law(part.time(x), x, part.cond)
            limits.evaluations[rows] += 1
            distance = row_rms(x - here)
            # A step of one is rest that the estimate of the limit does not yet believe in.
            back = open_ & (distance <= bound) & (step > 1)
            limits.kinds[rows[back]] = int(LimitKind.CYCLE)
            limits.periods[rows[back]], limits.residuals[rows[back]] = float(step), distance[back]
            found[back], open_ = step, open_ & ~back
        # Beyond its period a cycle is repeated.
        turns = torch.arange(longest, device=rows.device)[:, None] % found
        orbits[:, rows] = orbits[turns, rows[None]]
    return LimitSets(limits.kinds, limits.points, limits.periods, limits.residuals, orbits, limits.evaluations)


def distinct_attractors(limits: LimitSets, separation: float) -> Attractors:
    """Merge limit sets that are the same.

    Fixed points are one within the separation; cycles are one if their periods agree to 1 % and a point of one lies
    within the separation of the other's orbit.

    Args:
        limits: of B trajectories.
        separation: root mean square distance per entry.
    """
    members = torch.full_like(limits.kinds, -1)
    sources: list[int] = []
    rest = torch.nonzero(limits.kinds == int(LimitKind.FIXED_POINT)).flatten()
    if len(rest):
        groups = group_points(limits.points[rest], limits.residuals[rest], separation)
        members[rest], sources = groups.members, rest[groups.representatives].tolist()
    for place in torch.nonzero(limits.kinds == int(LimitKind.CYCLE)).flatten().tolist():
        for group, source in enumerate(sources):
            period = limits.periods[source]
            if abs(limits.periods[place] - period) > 0.01 * period or period == 0:
                continue
            if float(orbit_distance(limits.points[place], limits.orbits[:, source])) <= separation:
                members[place] = group
                break
        else:
            members[place] = len(sources)
            sources.append(place)
    found = torch.tensor(sources, dtype=torch.int64, device=members.device)
    hits = torch.bincount(members[members >= 0], minlength=len(sources))
    order = hits.argsort(descending=True, stable=True)
    members = torch.where(members >= 0, order.argsort()[members], -1) if len(sources) else members
    found = found[order]
    return Attractors(
        limits.kinds[found],
        limits.points[found],
        limits.periods[found],
        limits.orbits[:, found],
        hits[order],
        found,
        members,
    )


def orbit_distance(point: Tensor, orbit: Tensor) -> Tensor:
    """Root mean square distance of a state (*event) to the closed polygon through S states (S, *event), shape ()."""
    flat, corners = point.flatten().double(), orbit.flatten(1).double()
    edges = corners.roll(-1, 0) - corners
    share = ((flat - corners) * edges).sum(1) / edges.square().sum(1).clamp(min=1e-300)
    nearest = corners + share.clamp(0.0, 1.0)[:, None] * edges
    return row_rms(nearest - flat).min()
