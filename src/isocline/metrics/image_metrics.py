"""Metrics of an image set, one class each: what an evaluation measures is a choice of configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from isocline.metrics.class_balance import class_balance, class_shares
from isocline.metrics.frechet import FrechetDistance
from isocline.metrics.kernel_distance import kernel_distance
from isocline.metrics.memorisation import memorisation
from isocline.metrics.precision_recall import precision_recall

__all__ = [
    "AbstractImageMetric",
    "ClassBalance",
    "Frechet",
    "ImageJudge",
    "ImageReference",
    "ImageSet",
    "Kernel",
    "Memorisation",
    "PrecisionRecall",
]


class ImageJudge(Protocol):
    """A classifier whose inner features measure distances between image sets."""

    def features(self, images: Tensor) -> Tensor:
        """Map uint8 images ``(N, C, H, W)`` to features ``(N, d)``."""

    def classify(self, features: Tensor) -> Tensor:
        """Map features ``(N, d)`` to class logits ``(N, K)``."""


class ImageSet(NamedTuple):
    """Images as a judge sees them: uint8 ``(N, C, H, W)``, their features ``(N, d)`` and logits ``(N, K)``."""

    images: Tensor
    features: Tensor
    logits: Tensor


class ImageReference:
    """Real images; the judge sees them once, and every NFE and seed is held against the same statistics.

    Args:
        judge: see `ImageJudge`.
        train: training images ``(M, C, H, W)`` uint8.
        test: held-out images ``(K, C, H, W)`` uint8: the reference of all distances.

    Raises:
        ValueError: if images are not uint8.
    """

    def __init__(self, judge: ImageJudge, train: Tensor, test: Tensor) -> None:
        for name, images in (("training", train), ("test", test)):
            if images.dtype != torch.uint8:
                raise ValueError(f"{name} images are {images.dtype}; quantise them to uint8 first")
        self.judge = judge
        self.train, self.test = self.see(train), self.see(test)

    def see(self, images: Tensor) -> ImageSet:
        """Show uint8 images to the judge."""
        features = self.judge.features(images)
        return ImageSet(images, features, self.judge.classify(features))

    @cached_property
    def frechet(self) -> FrechetDistance:
        """Distance from the test split."""
        return FrechetDistance(self.test.features)

    @cached_property
    def frechet_train(self) -> FrechetDistance:
        """Distance from the training split."""
        return FrechetDistance(self.train.features)

    @cached_property
    def shares(self) -> Tensor:
        """Class shares of the test split as the judge predicts them, ``(K,)``."""
        logits = self.test.logits
        return class_shares(logits.argmax(dim=1), logits.shape[1])


class AbstractImageMetric(ABC):
    """Maps an image set and the real images to named numbers.

    Attributes:
        floored: whether real training images can be measured in the generated ones' place (not where the metric
            looks for those very images).
    """

    floored = True

    @abstractmethod
    def __call__(self, made: ImageSet, real: ImageReference) -> dict[str, float]:
        """Measure."""


class Frechet(AbstractImageMetric):
    """``frechet``: judge Fréchet distance from the test split; ``frechet_train``: from the training split."""

    def __call__(self, made: ImageSet, real: ImageReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {"frechet": real.frechet(made.features), "frechet_train": real.frechet_train(made.features)}


class Kernel(AbstractImageMetric):
    """``kernel``: unbiased squared MMD of judge features from the test split."""

    def __call__(self, made: ImageSet, real: ImageReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {"kernel": kernel_distance(made.features, real.test.features)}


class ClassBalance(AbstractImageMetric):
    """``class_entropy`` (nats) and ``class_balance_tv`` (total variation from real shares) of predicted classes."""

    def __call__(self, made: ImageSet, real: ImageReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        found = class_balance(made.logits, real.shares)
        return {"class_entropy": found.entropy, "class_balance_tv": found.total_variation}


class PrecisionRecall(AbstractImageMetric):
    """``precision``, ``recall``, ``density``, ``coverage`` against the test split.

    Args:
        neighbours: which neighbour sets a ball's radius.
    """

    def __init__(self, neighbours: int = 3) -> None:
        self.neighbours = neighbours

    def __call__(self, made: ImageSet, real: ImageReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return precision_recall(real.test.features, made.features, self.neighbours)._asdict()


class Memorisation(AbstractImageMetric):
    """``memorisation``: pixel distance to the training set over that of unseen images; ``copies``: share of copies.

    Args:
        threshold: first over second neighbour distance below which a sample is a copy.
    """

    floored = False

    def __init__(self, threshold: float = 1.0 / 3.0) -> None:
        self.threshold = threshold

    def __call__(self, made: ImageSet, real: ImageReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        found = memorisation(made.images, real.train.images, real.test.images, self.threshold)
        return {"memorisation": found.ratio, "copies": found.copies}
