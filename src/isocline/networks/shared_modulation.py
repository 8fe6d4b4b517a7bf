"""Modulation by one projection for all blocks: most of a small network's parameters need not be its condition's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SharedModulation", "modulation"]


def modulation(inputs: int, outputs: int) -> nn.Linear:
    """A projection of the condition that begins at zero, so that every block begins as the identity (adaLN-zero)."""
    projection = nn.Linear(inputs, outputs)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection


class SharedModulation(nn.Module):
    """A block's own offset to the shifts, scales and gates that one projection makes for all blocks ("adaLN-single").

    Source: *PixArt-α: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis*, Chen et al.,
    2024, §2.3.

    Args:
        outputs: numbers per block.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(outputs))

    def forward(self, shared: Tensor) -> Tensor:
        """Add the offset to what is shared, ``(B, outputs)``."""
        return shared + self.offset
