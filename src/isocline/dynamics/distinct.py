"""Which of many points are the same point."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.system import row_rms

__all__ = ["Groups", "group_points", "spread"]


class Groups(NamedTuple):
    """A partition of N points.

    Attributes:
        representatives: index of each group's best point, int64, shape (P,), in the order in which they were met.
        members: group of every point, int64, shape (N,).
    """

    representatives: Tensor
    members: Tensor


def spread(x: Tensor) -> float:
    """Root mean square distance of states ``(N, *event)`` from their mean, per entry; their size if there is only one.

    1 where that is zero.
    """
    centred = x - x.mean(0, keepdim=True) if len(x) > 1 else x
    size = float(row_rms(centred).square().mean().sqrt())
    return size if size > 0 else 1.0


def group_points(points: Tensor, quality: Tensor, radius: float) -> Groups:
    """Take the best point left, and with it all that lie within the radius; repeat.

    Args:
        points: shape (N, *event).
        quality: smaller is better (a residual), shape (N,).
        radius: root mean square distance per entry.

    Raises:
        ValueError: if the radius is not positive.
    """
    if radius <= 0:
        raise ValueError(f"radius={radius}; expected a positive distance")
    flat = points.flatten(1).double()
    members = torch.full((len(flat),), -1, dtype=torch.int64, device=flat.device)
    found: list[int] = []
    for place in quality.argsort(stable=True).tolist():
        if members[place] >= 0:
            continue
        free = members < 0
        near = free & (row_rms(flat - flat[place]) <= radius)
        near[place] = True
        members[near] = len(found)
        found.append(place)
    return Groups(torch.tensor(found, dtype=torch.int64, device=flat.device), members)
