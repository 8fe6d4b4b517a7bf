"""Images that samplers draw from the same noise, under one judge: what sets samplers of a model side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from isocline.datasets.quantisation import to_uint8
from isocline.metrics.image_evaluation import Drawn, draw_samples
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.jackknife import Jackknifed, delete_group_jackknife, feature_distance
from isocline.processes.denoiser import AbstractDenoiser
from isocline.randomness import generator
from isocline.samplers.base import AbstractSampler

__all__ = ["PairedSamples"]


@dataclass(frozen=True)
class PairedSamples:
    """Images of one model by any sampler, image i always from the same noise, so that differences are paired.

    Attributes:
        denoiser: network and process, wrapped as all samplers are to see it.
        reference: real images under the judge.
        seed: of the noise; not the model's, so that all models share it.
        count: images a set.
        batch_size: images at once; changes no noise.
        groups: of the jackknife.
        classes: class labels of a conditional network, 0 for none.
        shape: of one state; that of the images by default.
        device: where the network is.
    """

    denoiser: AbstractDenoiser
    reference: ImageReference
    seed: int
    count: int
    batch_size: int
    groups: int
    classes: int = 0
    shape: Sequence[int] | None = None
    device: str | torch.device = "cpu"

    def draw(self, sampler: AbstractSampler, nfe: int) -> Drawn:
        """Sample every image with a budget.

        Raises:
            ValueError: if the sampler cannot be run at that budget.
            isocline.solvers.solution.SolverError: if sampling fails, naming sample and time.
        """
        images = self.reference.test.images
        return draw_samples(
            self.denoiser, sampler,
            seed=self.seed, count=self.count, nfe=nfe,
            shape=tuple(images.shape[1:] if self.shape is None else self.shape),
            batch_size=self.batch_size, classes=self.classes, device=self.device,
        )  # fmt: skip

    @staticmethod
    def apart(images: Tensor, truth: Tensor) -> Tensor:
        """Return the root mean square distance per pixel of each image from its truth, ``(N,)`` float64."""
        return (images - truth).square().flatten(1).mean(1).sqrt().double()

    def frechet(self, images: Tensor) -> Jackknifed:
        """Return the judge Fréchet distance of float images ``(N, C, H, W)`` from the test split."""
        return self._jackknifed(self.reference.judge.features(to_uint8(images)).cpu())

    def floor(self) -> Jackknifed:
        """Return that distance of as many real training images: what a perfect model would score."""
        real = self.reference.train.features
        order = torch.randperm(len(real), generator=generator(self.seed, "floor"))[: self.count]
        return self._jackknifed(real[order.to(real.device)].cpu())

    def _jackknifed(self, features: Tensor) -> Jackknifed:
        return delete_group_jackknife(self._distance, features, self.groups)

    @cached_property
    def _distance(self) -> Callable[[Tensor], float]:
        return feature_distance(self.reference.test.features)
