"""The energy statistic of two sets of points: zero in expectation where their laws are equal, and only there."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["energy_statistic"]


def energy_statistic(a: Tensor, b: Tensor) -> Tensor:
    """Estimate 2 E‖A − B‖ − E‖A − A'‖ − E‖B − B'‖ without bias, differentiably.

    Being unbiased it may come out slightly negative.

    Source: Székely and Rizzo, *Testing for equal distributions in high dimension*, 2004.

    Args:
        a: points ``(N, d)``.
        b: points ``(M, d)``.

    Returns:
        A scalar.

    Raises:
        ValueError: if a set has fewer than two points, or they differ in dimension.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"sets have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected (N, d) and (M, d), N, M > 1"
        )
    return 2 * _apart(a, b).mean() - _within(a) - _within(b)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    # Not by way of inner products, which lose the digits of small distances.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _within(points: Tensor) -> Tensor:
    count = len(points)
    return _apart(points, points).sum() / (count * (count - 1))
