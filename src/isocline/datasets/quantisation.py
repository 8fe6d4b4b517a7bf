"""The one map between 8-bit images and the model's range [-1, 1].

Level y occupies the bin ``[y/128 - 1, (y+1)/128 - 1)``: `to_float` returns the bin's centre, `to_uint8` the bin
that holds a value. Uniform dequantisation draws inside the same bin, so likelihoods and pictures agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEVELS", "dequantise", "to_float", "to_uint8"]

LEVELS = 256
HALF = LEVELS / 2


def to_float(images: Tensor) -> Tensor:
    """Map levels to bin centres, ``(y + 1/2)/128 - 1``; uint8 of any shape to float32 of the same shape.

    Raises:
        TypeError: if ``images`` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images have dtype {images.dtype}; expected torch.uint8 (use to_uint8 on model output)")
    return (images.float() + 0.5) / HALF - 1.0


def dequantise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniformly inside each level's bin, ``(y + u)/128 - 1`` with u ~ U[0, 1); uint8 to float32.

    The volume element is 1/128 per dimension, which is ``ln 128`` nats to add to a density's negative logarithm.
    """
    noise = torch.rand(images.shape, generator=generator, device=images.device)
    return (images.float() + noise) / HALF - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """Map model output to levels, ``floor(128 (x + 1))`` limited to 0…255; the inverse of `to_float`.

    Values outside [-1, 1] go to the first or last level: an 8-bit image has no others.

    Raises:
        ValueError: if a value is not finite.
    """
    if not torch.isfinite(images).all():
        raise ValueError("images hold values that are not finite; the sampler diverged or the weights are broken")
    return ((images + 1.0) * HALF).floor().clamp(0, LEVELS - 1).to(torch.uint8)
