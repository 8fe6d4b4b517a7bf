"""Euler's step in depth: the ordinary pre-norm Transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isocline.networks.depth.block import ResidualBlock
from isocline.networks.depth.integrator import AbstractBlockwise, DepthStep

__all__ = ["Euler"]


class Euler(AbstractBlockwise):
    """``x_{l+1} = x_l + F_l(x_l)``, the block's own forward.

    Since ``F(x) = A(x) + M(x + A(x))``, it is at the same time Lie and Trotter's splitting of A + M, attention first,
    with Euler's step for each part. It alone can decode with a key-value cache.

    Source: Xiao et al., Ordinary differential equations in vision and language (2026), Eq. 26.
    """

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        return DepthStep(block(x, c))
