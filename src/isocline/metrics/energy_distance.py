"""A distance between two sets of points that needs no features."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["energy_distance"]


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Estimate 2 E‖A − B‖ − E‖A − A'‖ − E‖B − B'‖ without bias; zero in expectation for equal laws only.

    Being unbiased it may come out slightly negative.

    Source: Székely and Rizzo, *Testing for equal distributions in high dimension*, 2004.

    Args:
        a: points ``(N, d)``.
        b: points ``(M, d)``.

    Raises:
        ValueError: if a set has fewer than two points, or they differ in dimension.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"sets have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (N, d) and (M, d), N, M > 1"
        )
    a, b = a.to(torch.float64), b.to(torch.float64)
    between = torch.cdist(a, b).mean()
    return float(2 * between - _within(a) - _within(b))


def _within(points: Tensor) -> Tensor:
    return torch.pdist(points).mean()
