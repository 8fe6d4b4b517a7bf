"""Standard errors of statistics of a whole set, such as Fréchet distances: leave out one group after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.metrics.uncertainty import Estimate

__all__ = ["Jackknifed", "delete_group_jackknife", "feature_distance"]


@dataclass(frozen=True)
class Jackknifed:
    """A statistic of all samples with what leaving out each group says about its error.

    Attributes:
        estimate: the statistic of all samples, its standard error, n the number of groups.
        values: one value for each group, of the same mean and standard error; the differences of two statistics of the
            same samples, group by group, have the standard error of the paired difference.
    """

    estimate: Estimate
    values: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the estimate as the metrics files hold it, with its values."""
        return {**self.estimate.as_dict(), "values": list(self.values)}


def delete_group_jackknife(statistic: Callable[[Tensor], float], samples: Tensor, groups: int) -> Jackknifed:
    """Estimate the standard error of a smooth statistic: ``se² = (G − 1)/G Σ_g (θ_(g) − mean θ_(·))²``.

    θ_(g) leaves out group g, which is every G-th sample. The values are ``θ + (G − 1) (mean θ_(·) − θ_(g))``.

    Source: *The Jackknife, the Bootstrap and Other Resampling Plans*, Efron, 1982, §§2–3; *Introduction to Variance
    Estimation*, Wolter, 2007, §4.2 (groups).

    Args:
        statistic: of a set of samples, ``(n, …)``.
        samples: all of them, ``(N, …)``.
        groups: G.

    Raises:
        ValueError: unless 2 <= G <= N / 2.
    """
    if not 2 <= groups <= len(samples) / 2:
        raise ValueError(f"groups={groups} of {len(samples)} samples; give at least 2, and 2 samples a group")
    whole, member = statistic(samples), torch.arange(len(samples)) % groups
    left_out = [statistic(samples[member != group]) for group in range(groups)]
    centre = math.fsum(left_out) / groups
    values = tuple(whole + (groups - 1) * (centre - value) for value in left_out)
    spread = Estimate.from_values(values)
    return Jackknifed(Estimate(whole, spread.sd, spread.se, groups), values)


def feature_distance(reference: Tensor) -> Callable[[Tensor], float]:
    """Return the Fréchet distance of features from a reference, made to be asked many times.

    The same number as `isocline.metrics.frechet.FrechetDistance`: there the root of a product of covariances is
    taken by way of its eigenvalues, here by way of the symmetric ``S_r^{1/2} S S_r^{1/2}``, with S_r's root kept.

    Args:
        reference: real features ``(N, d)``.
    """
    real = reference.double()
    mean, covariance = real.mean(0), real.T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0.0).sqrt() @ vectors.T
    trace = covariance.trace()

    def distance(features: Tensor) -> float:
        made = features.double()
        other = made.T.cov()
        shared = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0.0).sqrt().sum()
        return float((made.mean(0) - mean).square().sum() + other.trace() + trace - 2 * shared)

    return distance
