"""Orders in which masked positions are decided."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.processes.kernel import uniforms

__all__ = ["AbstractOrder", "LeastEntropy", "LeftToRight", "Margin", "RandomOrder", "TopProbability"]


class AbstractOrder(ABC):
    """A score per position; the highest are decided first."""

    @abstractmethod
    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Score positions.

        Args:
            probs: law of the clean token, ``(B, L, V)`` float64.
            drawn: candidate drawn at each position, ``(B, L)``.
            generator: for orders that draw.

        Returns:
            ``(B, L)`` float64.
        """


class RandomOrder(AbstractOrder):
    """Every order equally likely."""

    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """One uniform per position."""
        return uniforms(drawn.shape, generator, drawn.device)


class LeftToRight(AbstractOrder):
    """The first positions first: one per step, it samples the law of the chain from left to right."""

    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the position."""
        return -torch.arange(drawn.shape[-1], device=drawn.device, dtype=torch.float64).expand(drawn.shape)


class TopProbability(AbstractOrder):
    """The probability of the candidate that was drawn ("MaskGIT", Chang et al., 2022)."""

    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """p(drawn)."""
        return probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)


class Margin(AbstractOrder):
    """Distance between the two largest probabilities ("Train for the Worst, Plan for the Best", Kim et al., 2025)."""

    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """p₁ − p₂; needs V ≥ 2, which the mask guarantees."""
        best = probs.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]


class LeastEntropy(AbstractOrder):
    """Negative entropy of the law."""

    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """Σ p ln p."""
        return torch.special.xlogy(probs, probs).sum(-1)
