"""Curves of fixed points over time, and what happens on them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from isocline.dynamics.classify import Kind
from isocline.dynamics.system import row_rms

__all__ = ["Branch", "BranchEnd", "BranchEvent", "BranchRow", "EventKind", "branch_rows"]


class EventKind(enum.Enum):
    """What a branch goes through."""

    FOLD = "fold"
    """It turns back: two fixed points are born or merge."""
    BRANCH_POINT = "branch point"
    """Another branch crosses it: a pitchfork or an exchange of stability."""
    OSCILLATION = "oscillation"
    """A complex pair of modes changes from decay to growth or back: Hopf's, or Neimark and Sacker's for maps."""
    PERIOD_DOUBLING = "period doubling"
    """An eigenvalue of a map passes -1."""


class BranchEnd(enum.Enum):
    """Why a branch was followed no further."""

    REACHED = "reached the end of the times"
    RETURNED = "came back to the first time"
    STUCK = "no step above step_min converges; lower step_min, or raise the precision"
    MAX_STEPS = "used up most_steps; raise it, or step_max"


class BranchEvent(NamedTuple):
    """A bifurcation.

    Attributes:
        kind: what happens.
        t: when.
        point: where, shape (*event).
        side: -1 if this branch exists only before ``t`` (at smaller times) near by, 1 if only after, 0 on both sides.
            Of generation, which runs from large times to small ones, -1 is a birth and 1 a merger.
    """

    kind: EventKind
    t: float
    point: Tensor
    side: int


@dataclass(frozen=True)
class Branch:
    """A curve of K fixed points, in order along it.

    Attributes:
        times: float64, shape (K,).
        points: shape (K, *event).
        residuals: root mean square of the residual, float64, shape (K,).
        leading: largest growth of a mode, float64, shape (K,).
        rising: number of modes known to grow, int64, shape (K,).
        kinds: kind of each point.
        events: in order.
        end: why it ends.
        parent: number of the branch that it was found on, None if it began at a start.
        evaluations: of the law, for the points.
        products: of its Jacobian, for points, tangents and spectra.
    """

    times: Tensor
    points: Tensor
    residuals: Tensor
    leading: Tensor
    rising: Tensor
    kinds: tuple[Kind, ...]
    events: tuple[BranchEvent, ...]
    end: BranchEnd
    parent: int | None = None
    evaluations: int = 0
    products: int = 0


class BranchRow(NamedTuple):
    """One point of one branch, as a row of a table."""

    branch: int
    parent: int
    t: float
    rms: float
    leading: float
    rising: int
    kind: str


def branch_rows(branches: Sequence[Branch]) -> list[BranchRow]:
    """All points of all branches; ``parent`` is -1 for branches that began at a start."""
    rows: list[BranchRow] = []
    for number, branch in enumerate(branches):
        parent = -1 if branch.parent is None else branch.parent
        columns = (branch.times, row_rms(branch.points), branch.leading, branch.rising)
        for t, rms, leading, rising, kind in zip(*(column.tolist() for column in columns), branch.kinds, strict=True):
            rows.append(BranchRow(number, parent, t, rms, leading, rising, kind.value))
    return rows
