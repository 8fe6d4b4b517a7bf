"""A discriminator with eyes of its own: a small convolutional network on noisy images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from isocline.distillation.discriminator import AbstractDiscriminator
from isocline.networks.embedding import TimeEmbedding

__all__ = ["ImageDiscriminator"]


class ImageDiscriminator(AbstractDiscriminator):
    """Three strided convolutions with two logits: the mean of local ones after the second, one of all after the third.

    It costs a small part of a pass through the teacher, but knows nothing as it begins.

    Source: *Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks*, Radford et
    al., 2016, §3 (strided convolutions, leaky rectifiers); *Diffusion-GAN: Training GANs with Diffusion*, Wang et al.,
    2023, §3 (noisy images and their time).

    Args:
        network: the teacher, at which it does not look.
        channels: of the images.
        size: height and width.
        width: channels of the first level, a multiple of 8.

    Raises:
        ValueError: if the width is no multiple of 8.
    """

    def __init__(self, network: nn.Module, channels: int = 1, size: int = 28, width: int = 32) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width={width} must be a positive multiple of 8")
        self.time = TimeEmbedding(width)
        self.first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.norm2, self.norm3 = nn.GroupNorm(8, 2 * width), nn.GroupNorm(8, 4 * width)
        self.local = nn.Conv2d(2 * width, 1, 1)
        self.whole = nn.Linear(4 * width * (-(-size // 8)) ** 2, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> list[Tensor]:
        """Return the images themselves."""
        return [x]

    def forward(self, features: list[Tensor], t: Tensor) -> Tensor:
        """Return logits ``(B, 2)``."""
        x = features[0].to(self.first.weight.dtype).contiguous(memory_format=torch.channels_last)
        h = leaky_relu(self.first(x) + self.time(t)[:, :, None, None], 0.2)
        h = leaky_relu(self.norm2(self.second(h)), 0.2)
        local = self.local(h).flatten(1).mean(1)
        h = leaky_relu(self.norm3(self.third(h)), 0.2)
        return torch.stack([local, self.whole(h.flatten(1))[:, 0]], 1)
