"""Are the attractors of a model its training samples?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.metrics.nearest_neighbours import nearest_squared_distances, squared_distance_blocks
from isocline.metrics.uncertainty import wilson_interval

__all__ = ["AttractorMemorisation", "attractor_memorisation"]


@dataclass(frozen=True)
class AttractorMemorisation:
    """Distances of attractors to the training set, judged by those of unseen samples.

    Attributes:
        distances: root mean square distance per entry to the nearest training sample, float64, shape (P,).
        nearest: index of that sample, int64, shape (P,).
        p_values: ``(1 + held-out samples at least as near) / (1 + held-out samples)``, float64, shape (P,).
        ratio: median of the distances over the held-out samples' median: near 0 for copies, 1 for samples as unseen.
        level: α.
        share: of attractors whose p-value is at most α; no more than α is expected of samples drawn like the held-out
            ones.
        low: lower end of Wilson's interval of the share; above α, attractors are closer to the training set than data.
        high: upper end.
    """

    distances: Tensor
    nearest: Tensor
    p_values: Tensor
    ratio: float
    level: float
    share: float
    low: float
    high: float

    @property
    def memorises(self) -> bool:
        """Whether the interval of the share lies above α."""
        return self.low > self.level


def attractor_memorisation(
    points: Tensor, train: Tensor, held_out: Tensor, *, level: float = 0.05, confidence: float = 0.95
) -> AttractorMemorisation:
    """Compare nearest-neighbour distances to the training set.

    If a point is exchangeable with the held-out samples, its p-value is at most α with probability at most α, whatever
    the law of the data: the test is calibrated without assumptions on it. That is about one point at a time: all use
    the same held-out samples, which therefore should outnumber ``1/α`` well. Far attractors (blurred means, for one)
    have large p-values: the test has one side.

    Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), section 2.2 (conformal p-values);
    Meehan, Chaudhuri, Dasgupta, A non-parametric test to detect data-copying in generative models (2020).

    Args:
        points: shape (P, *event).
        train: training samples, shape (N, *event), in the same units.
        held_out: samples that the model has not seen, shape (M, *event).
        level: α.
        confidence: of the interval.

    Raises:
        ValueError: if there is no point, shapes differ, values are not finite, α is not in (0, 1), or the held-out
            samples are so few that no p-value reaches α.
    """
    for name, samples in (("points", points), ("train", train), ("held_out", held_out)):
        if not len(samples) or samples.shape[1:] != points.shape[1:]:
            raise ValueError(f"{name} has shape {tuple(samples.shape)}; expected (N >= 1, *{tuple(points.shape[1:])})")
        if not bool(samples.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite; drop the attractors that escaped")
    if not 0 < level < 1 or (len(held_out) + 1) * level < 1:
        raise ValueError(
            f"level={level} with {len(held_out)} held-out samples; expected one in (0, 1) and at least 1/level"
        )
    entries = points[0].numel()
    distances, nearest = _nearest(points.flatten(1), train.flatten(1))
    unseen = nearest_squared_distances(held_out.flatten(1), train.flatten(1), 1)[:, 0]
    closer = torch.searchsorted(unseen.sort().values, distances, right=True)
    p_values = (1 + closer).double() / (1 + len(unseen))
    floor = float(unseen.median())
    if floor == 0:
        raise ValueError("more than half of the held-out samples are also training samples; mend the split first")
    hits = int((p_values <= level).sum())
    low, high = wilson_interval(hits, len(points), confidence)
    return AttractorMemorisation(
        (distances / entries).sqrt(),
        nearest,
        p_values,
        (float(distances.median()) / floor) ** 0.5,
        level,
        hits / len(points),
        low,
        high,
    )


def _nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest row of y, and its index."""
    found = [squared.min(1) for _, squared in squared_distance_blocks(x, y)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])
