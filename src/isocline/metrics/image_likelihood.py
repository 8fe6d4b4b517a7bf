"""Bits per dimension of test images, averaged with a standard error over images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.metrics.settings import LikelihoodSettings
from isocline.metrics.uncertainty import Estimate
from isocline.objectives.likelihood import ProbabilityFlowLikelihood, bits_per_dim
from isocline.processes.denoiser import AbstractDenoiser
from isocline.randomness import generator

__all__ = ["image_likelihood"]


def image_likelihood(
    denoiser: AbstractDenoiser,
    images: Tensor,
    likelihood: ProbabilityFlowLikelihood,
    settings: LikelihoodSettings,
    seed: int,
    *,
    classes: int = 0,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Estimate bits per dimension on the first images of a split.

    Args:
        denoiser: network and process.
        images: held-out images ``(K, C, H, W)`` uint8.
        likelihood: how densities are found.
        settings: number of images, batch and draws.
        seed: run seed; draws of the i-th batch depend on it alone, so that models are compared on equal draws.
        classes: class labels of a conditional network, 0 for none.
        labels: true labels ``(K,)``, needed if ``classes``.
        device: where the network is.

    Returns:
        ``{mean, sd, se, n, kind}``; the error is between images and includes the draws' own, whose share of it is
        ``estimator_se`` where there are several draws.

    Raises:
        ValueError: if a conditional network is given no labels.
    """
    if classes and labels is None:
        raise ValueError(f"the network has {classes} classes; bits per dimension needs the images' labels")
    parts, variances, kind = [], [], ""
    for start in range(0, min(settings.images, len(images)), settings.batch_size):
        rows = slice(start, min(start + settings.batch_size, settings.images))
        cond = labels[rows].to(device) if classes and labels is not None else None
        stream = generator(seed, "bits_per_dim", start, device=device)
        found = bits_per_dim(denoiser, images[rows].to(device), stream, likelihood, settings.draws, cond)
        parts.append(found.bits_per_dim.double().cpu())
        if settings.draws > 1:
            variances.append(found.variance.double().cpu())
        kind = found.kind
    estimate = {**Estimate.from_values(torch.cat(parts).numpy()).as_dict(), "kind": kind}
    if variances:
        estimate["estimator_se"] = float(torch.cat(variances).mean().sqrt() / len(torch.cat(parts)) ** 0.5)
    return estimate
