"""Reconstruction of images from latents with noise: the objective of an autoencoder."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.randomness import normal

__all__ = ["Reconstruction"]


class _Coder(Protocol):
    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class Reconstruction(Objective):
    """‖decode(encode(x) + ν z) − x‖²/d with z ~ N(0, I).

    Latents have unit variance, so that noise limits what they can hold to ½ ln(1 + 1/ν²) nats a component, and nearby
    latents must decode alike: the smoothness that generated latents, never quite those of an image, rely on.

    Source: the small-noise Gaussian encoder of *Auto-Encoding Variational Bayes*, Kingma & Welling, 2014, of fixed
    variance, with normalisation in place of the prior term.

    Args:
        noise: ν.

    Raises:
        ValueError: if it is negative.
    """

    def __init__(self, noise: float = 0.1) -> None:
        super().__init__()
        if noise < 0:
            raise ValueError(f"noise = {noise}: must not be negative")
        self.noise = noise

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss on images ``batch.x0 (B, C, H, W)``; the network encodes and decodes."""
        coder = cast(_Coder, network)
        latents = coder.encode(batch.x0)
        noisy = latents + self.noise * normal(latents.shape, generator, latents)
        return Loss((coder.decode(noisy) - batch.x0).square().mean(), {})
