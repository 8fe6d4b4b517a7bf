"""Exact nearest-neighbour distances in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["nearest_squared_distances", "squared_distance_blocks"]

_ENTRIES = 2**24


def squared_distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(start, d2)`` where ``d2[i, j] = |x_{start+i} - y_j|^2`` in float64; exact for integer entries.

    Args:
        x: shape ``(n, d)``.
        y: shape ``(m, d)``.
    """
    a, b = x.double(), y.double()
    norms = b.square().sum(1)
    rows = max(1, _ENTRIES // max(1, b.shape[0]))
    for start in range(0, a.shape[0], rows):
        block = a[start : start + rows]
        squared = block.square().sum(1, keepdim=True) + norms - 2.0 * block @ b.T
        yield start, squared.clamp_min_(0.0)


def nearest_squared_distances(x: Tensor, y: Tensor, k: int, *, same: bool = False) -> Tensor:
    """Squared distances from each x to its k nearest rows of y, nearest first, shape ``(n, k)`` float64.

    Args:
        x: shape ``(n, d)``.
        y: shape ``(m, d)``.
        k: neighbours.
        same: x is y; a row is not its own neighbour.

    Raises:
        ValueError: if y holds fewer than k candidates.
    """
    available = y.shape[0] - int(same)
    if k < 1 or available < k:
        raise ValueError(f"k = {k} neighbours asked, {available} available; lower k or give more samples")
    found = []
    for start, squared in squared_distance_blocks(x, y):
        if same:
            rows = torch.arange(squared.shape[0], device=squared.device)
            squared[rows, rows + start] = torch.inf
        found.append(squared.topk(k, dim=1, largest=False).values)
    return torch.cat(found)
