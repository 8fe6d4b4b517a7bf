"""Embeddings of time and class labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ConditionEmbedding", "TimeEmbedding"]


class TimeEmbedding(nn.Module):
    """Sinusoidal features of 1000 t followed by a two-layer MLP ("Denoising Diffusion Probabilistic Models", 2020).

    The factor 1000 lives here and nowhere else: times are in [0, 1] everywhere outside.

    Args:
        width: output width D.
        features: number of sinusoidal features, even.
    """

    frequencies: Tensor

    def __init__(self, width: int, features: int = 64) -> None:
        super().__init__()
        half = features // 2
        frequencies = 1000.0 * torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embed times ``()`` or ``(B,)`` as ``(1, D)`` or ``(B, D)``."""
        angles = t.reshape(-1, 1).to(self.frequencies.dtype) * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class ConditionEmbedding(nn.Module):
    """Time and, when there are classes, the label: the vector that modulates every block.

    Args:
        width: output width D.
        classes: number of labels. One more row stands for "none": it is used for negative labels and when no condition
            is given.
        end_time: embed a second time too, the one to which a flow map leads. It adds nothing at first, so that a
            student which starts from its teacher's weights is its teacher.
    """

    def __init__(self, width: int, classes: int = 0, end_time: bool = False) -> None:
        super().__init__()
        if classes < 0:
            raise ValueError(f"classes = {classes}: must be 0 (unconditional) or the number of labels")
        self.classes = classes
        self.time = TimeEmbedding(width)
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.end = TimeEmbedding(width) if end_time else None
        if self.end is not None:
            for parameter in self.end.mlp[-1].parameters():
                nn.init.zeros_(parameter)
        self.activation = nn.SiLU()

    def forward(self, t: Tensor, cond: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """Embed times ``()`` or ``(B,)``, labels ``(B,)`` and end times (t by default) as ``(1, D)`` or ``(B, D)``."""
        c = self.time(t)
        if self.end is not None:
            c = c + self.end(t if s is None else s)
        if self.label is not None:
            labels = torch.full((1,), -1, dtype=torch.int64, device=c.device) if cond is None else cond
            c = c + self.label(torch.where(labels < 0, self.classes, labels))
        return self.activation(c)
