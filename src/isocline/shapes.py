"""Axis legend and shape helpers.

Axes: B batch, C channels, H W image, L sequence length, V vocabulary (mask token last, index V-1, when there is
one), D embedding width, S solver stages, K save points. ``*event`` stands for all axes of one sample.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["Tensor", "expand_like"]


def expand_like(t: Tensor, x: Tensor) -> Tensor:
    """Give per-sample values the rank of a state, so that they broadcast over its event axes.

    Args:
        t: shape ``()`` or ``(B,)``.
        x: shape ``(B, *event)``.

    Returns:
        ``t`` with shape ``()`` or ``(B, 1, …, 1)``; dtype and device unchanged.

    Raises:
        ValueError: if ``t`` has more than one axis or a length that is neither 1 nor B.
    """
    if t.ndim == 0:
        return t
    # Two comparisons, not a membership test, which a compiler cannot do with sizes that are symbols.
    if t.ndim != 1 or (t.shape[0] != x.shape[0] and t.shape[0] != 1):
        raise ValueError(f"t has shape {tuple(t.shape)}; expected () or ({x.shape[0]},), one value per sample")
    return t.reshape(-1, *([1] * (x.ndim - 1)))
