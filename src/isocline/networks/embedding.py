"""Embeddings of time and class labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ConditionEmbedding", "LabelEmbedding", "TimeEmbedding"]


class TimeEmbedding(nn.Module):
    """Sinusoidal features of 1000 t followed by a two-layer MLP ("Denoising Diffusion Probabilistic Models", 2020).

    The factor 1000 lives here and nowhere else: times are in [0, 1] everywhere outside.

    The fastest features turn by a radian in a thousandth of the time. A network may put a ripple on them that no output
    shows and every derivative in t does; objectives that differentiate in t feed it back and diverge. ``blur`` averages
    the features over times N(t, blur²), which damps the frequency ω by exp(−ω² blur²/2) and leaves the slow ones.

    Args:
        width: output width D.
        features: number of sinusoidal features, even.
        blur: standard deviation of the average in time.

    Raises:
        ValueError: if the blur is negative.
    """

    frequencies: Tensor
    damping: Tensor

    def __init__(self, width: int, features: int = 64, blur: float = 0.0) -> None:
        super().__init__()
        if blur < 0:
            raise ValueError(f"blur = {blur}: must not be negative")
        half = features // 2
        frequencies = 1000.0 * torch.exp(-math.log(10_000.0) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("damping", torch.exp(-0.5 * (blur * frequencies).square()), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embed times ``()`` or ``(B,)`` as ``(1, D)`` or ``(B, D)``."""
        angles = t.reshape(-1, 1).to(self.frequencies.dtype) * self.frequencies
        return self.mlp(torch.cat([angles.sin() * self.damping, angles.cos() * self.damping], dim=-1))


class LabelEmbedding(nn.Embedding):
    """A vector for every class label and one for "none", which negative labels and a missing condition stand for.

    Args:
        classes: number of labels, at least 1.
        width: of the vectors D.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes + 1, width)

    def forward(self, input: Tensor | None) -> Tensor:
        """Embed labels ``(B,)`` as ``(B, D)``, None as ``(1, D)``."""
        labels = self.weight.new_full((1,), -1, dtype=torch.int64) if input is None else input
        return super().forward(torch.where(labels < 0, self.num_embeddings - 1, labels))


class ConditionEmbedding(nn.Module):
    """Time and, when there are classes, the label: the vector that modulates every block.

    Args:
        width: output width D.
        classes: number of labels; see `LabelEmbedding`.
        end_time: embed a second time too, the one to which a flow map leads. It adds nothing at first, so that a
            student which starts from its teacher's weights is its teacher.
        time_blur: see `TimeEmbedding`.
    """

    def __init__(self, width: int, classes: int = 0, end_time: bool = False, time_blur: float = 0.0) -> None:
        super().__init__()
        if classes < 0:
            raise ValueError(f"classes = {classes}: must be 0 (unconditional) or the number of labels")
        self.classes = classes
        self.time = TimeEmbedding(width, blur=time_blur)
        self.label = LabelEmbedding(classes, width) if classes else None
        self.end = TimeEmbedding(width, blur=time_blur) if end_time else None
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
            c = c + self.label(cond)
        return self.activation(c)
