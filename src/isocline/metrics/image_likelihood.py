"""Bits per dimension of test images, averaged with a standard error over images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.metrics.settings import LikelihoodSettings
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import generator

__all__ = ["image_likelihood"]


def image_likelihood(
    denoiser: Any, images: Tensor, settings: LikelihoodSettings, seed: int, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Estimate bits per dimension on the first images of a split.

    Args:
        denoiser: network and process.
        images: held-out images ``(K, C, H, W)`` uint8.
        settings: number of images, batch, steps and draws.
        seed: run seed; draws of the i-th batch depend on it alone, so that models are compared on equal draws.
        device: where the network is.

    Returns:
        ``{mean, sd, se, n, kind}``; the error is between images and includes the draws' own.
    """
    from isocline.objectives.likelihood import bits_per_dim

    parts, kind = [], ""
    chosen = images[: settings.images]
    for start in range(0, len(chosen), settings.batch_size):
        batch = chosen[start : start + settings.batch_size].to(device)
        found = bits_per_dim(
            denoiser, batch, generator(seed, "bits_per_dim", start, device=device),
            steps=settings.steps, draws=settings.draws,
        )  # fmt: skip
        parts.append(found.bits.double().cpu())
        kind = found.kind
    return {**Estimate.from_values(torch.cat(parts).numpy()).as_dict(), "kind": kind}
