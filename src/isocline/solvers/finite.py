"""Which states are numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.shapes import expand_like

__all__ = ["all_finite", "finite_rows"]


def finite_rows(y: Tensor) -> Tensor:
    """Whether every element of each sample is finite, bool, shape (B,); True for tokens.

    Args:
        y: shape (B, *event).
    """
    if not (y.is_floating_point() or y.is_complex()):
        return expand_like(torch.ones((), dtype=torch.bool, device=y.device), y).expand(len(y))
    return y.detach().isfinite().reshape(len(y), -1).all(1)


def all_finite(y: Tensor) -> bool:
    """Whether every element is finite; waits for the device."""
    if y.is_complex() or not y.numel():
        return bool(y.isfinite().all())
    # Both are NaN where any element is.
    return all(math.isfinite(bound) for bound in torch.aminmax(y.detach()))
