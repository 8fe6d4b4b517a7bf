"""The image judge: a small classifier whose features measure distances between sets of images.

It is trained by the pipeline on a split that no generative model sees. A Fréchet distance over its features is a
*judge Fréchet distance*: comparable within one judge, never with distances over other networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.datasets.datamodule import StepBatches
from isocline.datasets.quantisation import to_float
from isocline.randomness import generator

__all__ = ["ImageJudge", "jitter", "train_image_judge"]

CHUNK = 256


class ImageJudge(nn.Module):
    """A convolutional classifier of 8-bit images.

    Three stages, each halving the edge (convolution, batch norm, ReLU, max pooling), a linear map to the features
    and a linear classifier on them.

    Args:
        channels: image channels C.
        size: image edge in pixels, at least 8.
        classes: number of classes K.
        width: channels of the first stage; the others have two and four times as many.
        num_features: width d of the features.
        dropout: rate between features and classifier while training.

    Raises:
        ValueError: if the images are too small to be halved three times.
    """

    def __init__(
        self, channels: int, size: int, classes: int, width: int = 32, num_features: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"size = {size}: the judge halves images three times and needs at least 8 pixels")
        self.num_features = num_features
        widths = (width, 2 * width, 4 * width)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for before, after in zip((channels, *widths), widths, strict=False)
            )
        )
        self.embed = nn.Linear(widths[-1] * (size // 8) ** 2, num_features)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, classes)

    def embedding(self, x: Tensor) -> Tensor:
        """Map float images in [-1, 1] ``(B, C, H, W)`` to features ``(B, d)``, with gradients."""
        return F.relu(self.embed(self.stages(x).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map float images in [-1, 1] to class logits ``(B, K)``, with gradients."""
        logits: Tensor = self.head(self.dropout(self.embedding(x)))
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Map uint8 images ``(N, C, H, W)`` to features ``(N, d)`` float32, in pieces that bound the memory."""
        mode, device = self.training, self.head.weight.device
        self.eval()
        parts = [self.embedding(to_float(part.to(device))).to(images.device) for part in torch.split(images, CHUNK)]
        self.train(mode)
        return torch.cat(parts)

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Map features ``(N, d)`` to class logits ``(N, K)`` float32, in the same pieces."""
        device = self.head.weight.device
        return torch.cat([self.head(part.to(device)).to(features.device) for part in torch.split(features, CHUNK)])

    def logits(self, images: Tensor) -> Tensor:
        """Map uint8 images ``(N, C, H, W)`` to class logits ``(N, K)`` float32."""
        return self.classify(self.features(images))


def jitter(x: Tensor, draws: torch.Generator, shift: float, rotation: float, scale: float) -> Tensor:
    """Move, turn and stretch every image a little, bilinearly; the border continues outwards.

    Args:
        x: float images ``(B, C, H, W)``.
        draws: of one displacement, angle and scale per image.
        shift: largest displacement along each axis, pixels.
        rotation: largest angle, degrees.
        scale: largest relative change of size.
    """
    batch, size = x.shape[0], x.shape[-1]
    u = 2.0 * torch.rand(batch, 4, generator=draws) - 1.0
    angle = u[:, 0] * math.radians(rotation)
    factor = 1.0 + scale * u[:, 1]
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    moves = u[:, 2:] * (2.0 * shift / size)
    theta = torch.stack([cosine, -sine, moves[:, 0], sine, cosine, moves[:, 1]], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def train_image_judge(
    judge: ImageJudge,
    images: Tensor,
    labels: Tensor,
    seed: int,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.05,
    smoothing: float = 0.05,
    shift: float = 2.0,
    rotation: float = 10.0,
    scale: float = 0.1,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a judge by AdamW on slightly displaced images; warm-up, then a cosine to zero.

    Args:
        judge: trained in place and left in evaluation mode.
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        seed: of batches, displacements and dropout.
        steps: optimiser steps.
        batch_size: images per step.
        lr: largest learning rate.
        weight_decay: of AdamW.
        smoothing: label smoothing.
        shift: see `jitter`.
        rotation: see `jitter`.
        scale: see `jitter`.
        progress: called after each step with its number and loss.

    Returns:
        The loss of every step.

    Raises:
        ValueError: if ``steps`` is not positive.
        FloatingPointError: if the loss is not finite.
    """
    if steps < 1:
        raise ValueError(f"judge.images.steps = {steps}: must be at least 1")
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    draws, losses = generator(seed, "jitter"), []
    judge.train()
    device = judge.head.weight.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "dropout").initial_seed())  # dropout takes no generator
        for step, batch in enumerate(StepBatches({"x0": images, "cond": labels}, batch_size, seed, steps)):
            assert batch.cond is not None
            logits = judge(jitter(batch.x0, draws, shift, rotation, scale).to(device))
            loss = F.cross_entropy(logits, batch.cond.to(device), label_smoothing=smoothing)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"image judge: loss {losses[-1]} at step {step}; lower judge.images.lr = {lr}")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(step + 1, losses[-1])
    judge.eval()
    return losses


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: a tenth of the steps to warm up, then a cosine to zero."""
    return min((step + 1) / max(1, steps // 10), 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps))))
