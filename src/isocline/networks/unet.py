"""A small convolutional U-Net ("U-Net", Ronneberger et al., 2015, with the residual blocks of DDPM, 2020)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from isocline.networks.embedding import ConditionEmbedding
from isocline.networks.residual_layers import ResidualLayer

__all__ = ["UNet"]


class GroupNorm(nn.GroupNorm):
    """Group normalisation that may be differentiated in forward mode in any memory format."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``."""
        # torch's forward derivative views its input by groups, which channels-last tensors refuse.
        differentiated = forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
        return super().forward(x.contiguous() if differentiated else x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the condition scales and shifts the second normalisation; zero-initialised output."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(min(8, inputs), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = GroupNorm(min(8, outputs), outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.activation = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, outputs, H, W)`` under the condition ``(B, D)``."""
        h = self.conv1(self.activation(self.norm1(x)))
        scale, shift = self.modulation(c)[..., None, None].chunk(2, dim=1)
        h = self.conv2(self.activation(torch.addcmul(shift, self.norm2(h), 1 + scale)))
        return self.skip(x) + h


class UNet(nn.Module):
    """A vector field on images by down- and upsampling with skip connections.

    Args:
        channels: image channels C.
        size: image height and width; must be divisible by ``2 ** (len(multipliers) - 1)``.
        width: channels of the first level.
        multipliers: channel multiplier of each level.
        classes: number of class labels, 0 for none.
        end_time: take a second time s ≤ t, the end of a flow map; see `isocline.processes.flow_map`.
        time_blur: smooth in time, for objectives that differentiate in it; see `isocline.networks.embedding`.

    Raises:
        ValueError: if the size cannot be halved often enough, or ``width`` is not a multiple of 8.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        classes: int = 0,
        end_time: bool = False,
        time_blur: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        if levels < 1 or size % 2 ** (levels - 1):
            raise ValueError(f"size = {size} cannot be halved {levels - 1} times; use fewer multipliers")
        if width < 8 or width % 8:
            raise ValueError(f"width = {width}: must be a positive multiple of 8")
        condition = 4 * width
        self.takes_end = end_time
        self.condition = ConditionEmbedding(condition, classes, end_time, time_blur)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        widths = [width * m for m in multipliers]
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        previous = width
        for level, w in enumerate(widths):
            self.down.append(ResidualBlock(previous, w, condition))
            last = level == levels - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(w, w, 3, stride=2, padding=1))
            previous = w
        self.middle = ResidualBlock(previous, previous, condition)
        self.up = nn.ModuleList()
        for w in reversed(widths):
            self.up.append(ResidualBlock(previous + w, w, condition))
            previous = w
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        head = nn.Conv2d(previous, channels, 3, padding=1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(cast(Tensor, head.bias))
        self.last = nn.Sequential(GroupNorm(8, previous), nn.SiLU(), head)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def residual_layers(self) -> list[ResidualLayer]:
        """Return the residual blocks from the first down to the last up; some change the number of channels."""
        return [ResidualLayer(block) for block in (*self.down, self.middle, *self.up)]

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, C, H, W)``, towards ``s`` (t if None); same shape."""
        c = self.condition(t, cond, s)
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, c)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h, c)
        for level, block in enumerate(self.up):
            if level:
                h = self.grow(h)
            h = block(torch.cat([h, skips.pop()], dim=1), c)
        return self.last(h)
