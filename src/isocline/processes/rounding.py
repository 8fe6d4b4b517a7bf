"""From points of the embedding space back to tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["AbstractRounding", "NearestRounding", "SoftmaxRounding"]


class AbstractRounding(ABC):
    """A law of the token given a point of the embedding space, positions independently."""

    @abstractmethod
    def log_probs(self, x: Tensor, table: Tensor, alpha: float = 1.0) -> Tensor:
        """Return log p(k|x).

        Args:
            x: points ``(B, L, D)``.
            table: embeddings ``(K, D)``.
            alpha: factor α of the data in x; 0 is allowed.

        Returns:
            ``(B, L, K)``.
        """

    @staticmethod
    def scores(x: Tensor, table: Tensor, alpha: float) -> Tensor:
        """x·e_k − α |e_k|²/2, which grows as |x − α e_k| falls (and says something at α = 0 too)."""
        return x @ table.T - 0.5 * alpha * table.square().sum(-1)


class NearestRounding(AbstractRounding):
    """The nearest embedding, with probability 1 (Li et al., 2022, §4.2); the first of several as near."""

    def log_probs(self, x: Tensor, table: Tensor, alpha: float = 1.0) -> Tensor:
        """0 for the nearest, −∞ for the others."""
        nearest = self.scores(x, table, alpha).argmax(-1, keepdim=True)
        law = torch.full((*x.shape[:-1], len(table)), -torch.inf, dtype=x.dtype, device=x.device)
        return law.scatter(-1, nearest, 0.0)


class SoftmaxRounding(AbstractRounding):
    """p(k|x) ∝ exp(−|x − α e_k|²/(2 width²)): Bayes' rule for Gaussian noise of that width and equal frequencies.

    Args:
        width: standard deviation of the noise that is rounded away.

    Raises:
        ValueError: if it is not above 0.
    """

    def __init__(self, width: float = 0.1) -> None:
        if not width > 0:
            raise ValueError(f"width = {width}: must be above 0; NearestRounding is its limit")
        self.width = width

    def log_probs(self, x: Tensor, table: Tensor, alpha: float = 1.0) -> Tensor:
        """The softmax of squared distances."""
        return (alpha / self.width**2 * self.scores(x, table, alpha)).log_softmax(-1)
