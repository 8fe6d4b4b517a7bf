"""A distance between two sets of points that needs no features."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.energy_statistic import energy_statistic

__all__ = ["energy_distance"]


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Estimate the energy distance of two laws from points of each, in float64; see `energy_statistic`.

    Args:
        a: points ``(N, d)``.
        b: points ``(M, d)``.

    Raises:
        ValueError: if a set has fewer than two points, or they differ in dimension.
    """
    return float(energy_statistic(a.to(torch.float64), b.to(torch.float64)))
