"""Fidelity and diversity of a sample set, read from nearest-neighbour balls."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.metrics.nearest_neighbours import nearest_squared_distances, squared_distance_blocks

__all__ = ["Manifold", "precision_recall"]


class Manifold(NamedTuple):
    """Shares in [0, 1], density in [0, inf).

    Attributes:
        precision: share of generated features inside some real ball.
        recall: share of real features inside some generated ball.
        density: mean number of real balls around a generated feature, over k.
        coverage: share of real balls that hold a generated feature.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> Manifold:
    """Improved precision and recall, density and coverage.

    A ball around each feature reaches to its k-th nearest neighbour in its own set. Precision and recall:
    Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", 2019, Eq. 1-3;
    density and coverage: Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020,
    Eq. 3-4 (their real balls only).

    Args:
        real: features ``(N, d)``.
        generated: features ``(M, d)``.
        k: which neighbour sets a ball's radius.

    Raises:
        ValueError: if a set holds k samples or fewer, or the widths differ.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features have shapes {tuple(real.shape)} and {tuple(generated.shape)}; need (N, d), (M, d)")
    real_radius = nearest_squared_distances(real, real, k, same=True)[:, -1]
    generated_radius = nearest_squared_distances(generated, generated, k, same=True)[:, -1]
    inside_real = torch.zeros(generated.shape[0], dtype=torch.int64, device=real.device)
    recalled = torch.zeros(real.shape[0], dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for start, squared in squared_distance_blocks(generated, real):
        stop = start + squared.shape[0]
        within = squared <= real_radius
        inside_real[start:stop] = within.sum(1)
        covered |= within.any(0)
        recalled |= (squared <= generated_radius[start:stop, None]).any(0)
    return Manifold(
        precision=float((inside_real > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(inside_real.double().mean() / k),
        coverage=float(covered.double().mean()),
    )
