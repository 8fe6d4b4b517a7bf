"""What a training step receives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    """One minibatch.

    Attributes:
        x0: data; images ``(B, C, H, W)`` float32 in [-1, 1], text ``(B, L)`` int64 tokens.
        cond: class labels ``(B,)`` int64, or None.
        x1: noise that is already paired with ``x0`` (reflow), same shape as ``x0``, or None.
    """

    x0: Tensor
    cond: Tensor | None = None
    x1: Tensor | None = None
