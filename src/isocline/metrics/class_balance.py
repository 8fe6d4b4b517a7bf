"""How evenly a sample set spreads over the judge's classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ClassBalance", "class_balance", "class_shares"]


class ClassBalance(NamedTuple):
    """Spread of predicted classes.

    Attributes:
        entropy: entropy of the predicted class shares, nats; ln K when they are even.
        total_variation: half the L1 distance from the reference shares, in [0, 1].
    """

    entropy: float
    total_variation: float


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """Return the share of each class, shape ``(classes,)`` float64, from labels ``(N,)``."""
    if labels.numel() == 0:
        raise ValueError("no labels given; class shares need at least one sample")
    return torch.bincount(labels.reshape(-1), minlength=classes).double() / labels.numel()


def class_balance(logits: Tensor, reference: Tensor) -> ClassBalance:
    """Compare the judge's predicted classes with reference shares.

    Args:
        logits: the judge's output for generated images, shape ``(N, K)``.
        reference: class shares of real images, as the same judge predicts them, shape ``(K,)``.
    """
    shares = class_shares(logits.argmax(dim=1), logits.shape[1])
    if shares.shape != reference.shape:
        raise ValueError(f"logits have {shares.numel()} classes; the reference shares have {reference.numel()}")
    entropy = -torch.special.xlogy(shares, shares).sum()
    return ClassBalance(float(entropy), float(0.5 * (shares - reference.to(shares)).abs().sum()))
