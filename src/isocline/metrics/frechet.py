"""Fréchet distance between feature laws that are summarised as Gaussians.

Over the project's own judge this number is called the *judge Fréchet distance*. It is not comparable with a
distance over Inception features and never carries that one's name.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

__all__ = ["FrechetDistance"]


class _Features(nn.Module):
    """Hands ready-made features through, so that torchmetrics accumulates them without a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance:
    r"""Distance of generated features from a fixed reference set.

    ``|m - m_r|^2 + tr(S + S_r - 2 (S S_r)^{1/2})`` with means m and covariances S (n - 1 in the denominator),
    the squared 2-Wasserstein distance of the two Gaussians (Dowson and Landau, *Journal of Multivariate
    Analysis* 12, 1982; Heusel et al., "GANs trained by a two time-scale update rule", 2017). Accumulation and
    formula are torchmetrics' `FrechetInceptionDistance` over given features, in float64; the value does not
    depend on how samples were batched beyond rounding.

    Args:
        reference: real features, shape ``(N, d)``; their moments are computed once and kept.

    Raises:
        ValueError: for features that are not ``(N, d)`` with N at least 2, or not finite.
    """

    def __init__(self, reference: Tensor) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._check(reference, "reference")
        self._features = int(reference.shape[1])
        self._metric = FrechetInceptionDistance(feature=_Features(self._features), reset_real_features=False)
        self._metric.to(reference.device)
        self._metric.update(reference.double(), real=True)

    @staticmethod
    def _check(features: Tensor, name: str) -> None:
        if features.ndim != 2 or features.shape[0] < 2:
            raise ValueError(f"{name} features have shape {tuple(features.shape)}; expected (N, d) with N >= 2")
        if not torch.isfinite(features).all():
            raise ValueError(f"{name} features are not finite; the samples or the judge's weights are broken")

    def __call__(self, features: Tensor) -> float:
        """Return the distance of generated features ``(N, d)`` from the reference."""
        self._check(features, "generated")
        if features.shape[1] != self._features:
            raise ValueError(f"generated features have width {features.shape[1]}; the reference has {self._features}")
        self._metric.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._metric.update(features.double(), real=False)
            return float(self._metric.compute())
