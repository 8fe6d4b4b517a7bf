"""A small convolutional autoencoder of images, a quarter as high and as wide, with normalised latents."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Autoencoder"]


class Autoencoder(nn.Module):
    """Images ``(B, C, H, W)`` to latents ``(B, c, H/4, W/4)`` and back.

    Latents are normalised: each channel has mean 0 and variance 1, in training over the batch, afterwards over the data
    that `calibrate` was shown, so that any process's noise has the right size. The encoder is deterministic; what
    keeps the latent space smooth is the noise of its objective (`isocline.objectives.reconstruction`).

    Source: *High-Resolution Image Synthesis with Latent Diffusion Models*, Rombach et al., 2022, §3.1, with the scaling
    to unit variance of its App. G for each channel, and noise in place of a Kullback–Leibler penalty.

    Args:
        channels: image channels C.
        size: image height and width, a multiple of 4.
        latent_channels: c.
        latent_size: height and width of the latents, ``size / 4``; stated so that a configuration can refer to it.
        width: channels of the hidden layers, a multiple of 8.

    Raises:
        ValueError: if the sizes do not fit or the width is not a multiple of 8.
    """

    def __init__(
        self, channels: int, size: int, latent_channels: int = 4, latent_size: int | None = None, width: int = 32
    ) -> None:
        super().__init__()
        if size % 4 or latent_size not in (None, size // 4):
            raise ValueError(f"size = {size}, latent_size = {latent_size}: need size = 4 latent_size")
        if width < 8 or width % 8:
            raise ValueError(f"width = {width}: must be a positive multiple of 8")
        self.latent_shape = (latent_channels, size // 4, size // 4)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, latent_channels, 1),
        )
        self.normalise = nn.BatchNorm2d(latent_channels, affine=False, eps=1e-6)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return the normalised latents of images in [-1, 1]."""
        return self.normalise(self.encoder(images))  # type: ignore[no-any-return]

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, in [-1, 1] up to the decoder's error."""
        return self.decoder(latents)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Return the reconstruction."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Normalise by the mean and variance over all images of some batches, and by these from now on."""
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for images in batches:
            raw = self.encoder(images).double()
            count += raw.numel() // raw.shape[1]
            total, square = total + raw.sum((0, 2, 3)), square + raw.square().sum((0, 2, 3))
        mean = total / count
        assert self.normalise.running_mean is not None
        assert self.normalise.running_var is not None
        self.normalise.running_mean.copy_(mean)
        self.normalise.running_var.copy_(square / count - mean.square())
        self.eval()
