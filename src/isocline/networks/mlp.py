"""A multilayer perceptron field for low-dimensional data (2-D densities, tests, benchmarks)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.networks.embedding import TimeEmbedding

__all__ = ["MLP"]


class MLP(nn.Module):
    """Vector field on R^d: time features are concatenated to the state.

    Args:
        dim: dimension d of the state.
        width: hidden width.
        depth: number of hidden layers.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(self, dim: int, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be a positive integer")
        self.time = TimeEmbedding(width)
        layers: list[nn.Module] = [nn.Linear(dim + width, width), nn.SiLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, d)``; ``(B, d)`` out."""
        features = self.time(t).expand(x.shape[0], -1)
        return self.layers(torch.cat([x, features], dim=-1))
