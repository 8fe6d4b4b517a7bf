"""How much of the starts each attractor draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.dynamics.system import check_states
from isocline.metrics.uncertainty import wilson_interval
from isocline.solvers import ODEProblem, PIDController, Tsit5, solve
from isocline.solvers.controller import AbstractController
from isocline.solvers.problem import VectorField
from isocline.solvers.stepper import AbstractStepper

__all__ = ["BasinShare", "BasinShares", "basin_shares", "flow_basins", "nearest_attractor"]


@dataclass(frozen=True)
class BasinShare:
    """Share of one basin among random starts.

    Attributes:
        count: starts that ended there.
        share: of all starts.
        low: lower end of Wilson's interval.
        high: upper end.
    """

    count: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class BasinShares:
    """Monte Carlo estimate of basin volumes, in the law that the starts were drawn from.

    Attributes:
        basins: one for each of the P attractors, in their order.
        undecided: starts that ended at none.
        members: attractor of each start, -1 for none, int64, shape (B,).
    """

    basins: tuple[BasinShare, ...]
    undecided: BasinShare
    members: Tensor


def basin_shares(members: Tensor, count: int, confidence: float = 0.95) -> BasinShares:
    """Shares with Wilson intervals, each for itself: with many basins a few of them miss.

    Args:
        members: attractor of each independent start, -1 for none, int64, shape (B,).
        count: number of attractors, P.
        confidence: of the intervals.

    Raises:
        ValueError: if there is no start, or a member is no attractor.
    """
    if members.ndim != 1 or not len(members) or int(members.max()) >= count or int(members.min()) < -1:
        raise ValueError(f"members of shape {tuple(members.shape)}; expected one of -1..{count - 1} for every start")
    counts = torch.bincount(members + 1, minlength=count + 1).tolist()
    undecided, *basins = (
        BasinShare(n, n / len(members), *wilson_interval(n, len(members), confidence)) for n in counts
    )
    return BasinShares(tuple(basins), undecided, members)


def nearest_attractor(ends: Tensor, points: Tensor, radius: float | None = None) -> Tensor:
    """Index of the nearest point, -1 where it is further than the radius or the end is not finite, int64, shape (B,).

    Args:
        ends: shape (B, *event).
        points: shape (P, *event).
        radius: root mean square distance per entry; None has no limit.

    Raises:
        ValueError: if there is no point, or shapes of states differ.
    """
    if not len(points) or ends.shape[1:] != points.shape[1:]:
        raise ValueError(
            f"ends {tuple(ends.shape)}, points {tuple(points.shape)}; expected (B, *event), (P >= 1, *event)"
        )
    flat = ends.flatten(1).double()
    finite = flat.isfinite().all(1)
    distance = torch.cdist(torch.where(finite[:, None], flat, 0.0), points.flatten(1).double())
    nearest = distance.min(1)
    near = finite if radius is None else finite & (nearest.values / flat.shape[1] ** 0.5 <= radius)
    return torch.where(near, nearest.indices, -1)


def flow_basins(
    field: VectorField,
    starts: Tensor,
    t0: float,
    t1: float,
    points: Tensor,
    *,
    radius: float | None = None,
    cond: Any = None,
    confidence: float = 0.95,
    stepper: AbstractStepper | None = None,
    controller: AbstractController | None = None,
) -> BasinShares:
    """Shares of the starts that a flow carries to each of the points.

    For a probability flow from its prior to data, and points at the modes, these are the weights of the modes: the
    flow moves the prior's law to the data's.

    Args:
        field: ``f(t, x, cond)``, time-dependent.
        starts: independent draws, shape (B, *event).
        t0: time of the starts.
        t1: end, either direction.
        points: attractors or modes, shape (P, *event).
        radius: as `nearest_attractor`.
        cond: handed to the field.
        confidence: of the intervals.
        stepper: `isocline.solvers.Tsit5` by default.
        controller: ``PIDController()`` by default.

    Raises:
        TypeError, ValueError: if the starts are no batch of finite states, or as `nearest_attractor`.
    """
    check_states(starts, "starts")
    with torch.no_grad():
        problem = ODEProblem(field, starts, t0, t1, cond)
        ends = solve(problem, stepper or Tsit5(), controller or PIDController()).final
    return basin_shares(nearest_attractor(ends, points, radius), len(points), confidence)
