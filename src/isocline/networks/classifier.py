"""Classifiers of images whose middle is a residual network: the discrete side of a neural ODE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.networks.residual_layers import ResidualLayer

__all__ = ["AbstractClassifier", "Classified", "ConvolutionField", "ResidualClassifier"]

_GROUPS = 8


class Classified(NamedTuple):
    """What a classifier says.

    Attributes:
        logits: shape (B, K).
        nfe: evaluations of the residual function for each sample, int64, shape (B,).
    """

    logits: Tensor
    nfe: Tensor


class ConvolutionField(nn.Module):
    """Two 3×3 convolutions as a function of time and state: a residual block, or the field of a neural ODE.

    Group norms stand before each convolution and at the end, so that samples do not mix and the slope is bounded; SiLU
    is smooth, which adaptive steps need. Time enters as a bias of each convolution.

    Source: Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations (2018), section 3.

    Args:
        width: channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = min(_GROUPS, width)
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.drift = nn.Parameter(torch.zeros(2, width, 1, 1))
        self.activation = nn.SiLU()

    def forward(self, t: Tensor, x: Tensor, cond: None = None) -> Tensor:
        """Evaluate at ``t`` () or (B,) and ``x`` (B, D, H, W); same shape out."""
        time = t.reshape(-1, 1, 1, 1).to(x.dtype)
        for norm, convolution, drift in zip(self.norms, self.convolutions, self.drift, strict=False):
            x = torch.addcmul(convolution(self.activation(norm(x))), time, drift)
        slope: Tensor = self.norms[-1](x)
        return slope


class AbstractClassifier(nn.Module, ABC):
    """Two strided convolutions, a residual part at a quarter of the resolution, means over quarters, a linear head.

    A subclass implements `transform`, the residual part.

    Args:
        channels: image channels C.
        size: image edge in pixels, at least 8.
        classes: number of classes K.
        width: channels D of the hidden state; a multiple of 8, or below 8.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"size = {size}: the stem halves images twice and needs at least 8 pixels")
        if classes < 2:
            raise ValueError(f"classes = {classes}: a classifier needs at least 2; set data.images.classes")
        if width < 1 or width % min(_GROUPS, width):
            raise ValueError(f"width = {width}: must be a multiple of {_GROUPS}, or a positive number below it")
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.GroupNorm(min(_GROUPS, width), width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        self.readout = nn.Sequential(
            nn.GroupNorm(min(_GROUPS, width), width), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(4 * width, classes)

    @abstractmethod
    def transform(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Carry the hidden state (B, D, H/4, W/4) from t = 0 to 1; also return the evaluations (B,)."""

    def forward(self, x: Tensor) -> Classified:
        """Classify float images in [-1, 1], (B, C, H, W)."""
        h, nfe = self.transform(self.stem(x))
        return Classified(self.head(self.readout(h)), nfe)


class ResidualClassifier(AbstractClassifier):
    """The residual part is a stack of blocks ``h + F_l(h)``, each with weights of its own.

    Source: He, Zhang, Ren, Sun, Identity mappings in deep residual networks (2016); with ``F_l`` as in
    `ConvolutionField`, at ``t = l / blocks``.

    Args:
        channels: image channels C.
        size: image edge in pixels, at least 8.
        classes: number of classes K.
        width: channels D of the hidden state.
        blocks: number of blocks.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int = 16, blocks: int = 6) -> None:
        super().__init__(channels, size, classes, width)
        if blocks < 1:
            raise ValueError(f"blocks = {blocks}: must be at least 1")
        self.blocks = nn.ModuleList(ConvolutionField(width) for _ in range(blocks))

    def residual_layers(self) -> list[ResidualLayer]:
        """Return the fields F_l, which this network adds."""
        return [ResidualLayer(block, adds=False) for block in self.blocks]

    def transform(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the blocks in order."""
        for index, block in enumerate(self.blocks):
            h = h + block(h.new_full((), index / len(self.blocks)), h)
        return h, torch.full((len(h),), len(self.blocks), dtype=torch.int64, device=h.device)
