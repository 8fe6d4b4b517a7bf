"""What a reading is given, what it gives back, and how a reading is asked whether it applies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isocline.datasets.quantisation import to_uint8
from isocline.dynamics.trained_field import TrainedField
from isocline.metrics.judge_image import ImageJudge
from isocline.metrics.uncertainty import Estimate
from isocline.processes.denoiser import AbstractDenoiser

__all__ = [
    "AbstractReading",
    "Findings",
    "ImageSide",
    "Row",
    "Subject",
    "TextSide",
    "estimate",
    "positive",
    "with_error",
]

Row = Mapping[str, float]
"""One line of a table, by column."""


@dataclass(frozen=True)
class ImageSide:
    """What is held against an image model.

    Attributes:
        judge: names the class of images.
        train: the images that the model was trained on, uint8 ``(N, C, H, W)``.
        test: images that it has not seen, likewise.
        decode: states at t = 0 to images in [−1, 1]: the decoder of a model of latents.
    """

    judge: ImageJudge
    train: Tensor
    test: Tensor
    decode: Callable[[Tensor], Tensor]

    def pixels(self, data: Tensor) -> Tensor:
        """Return clean states ``(B, *event)`` as images, uint8 ``(B, C, H, W)``."""
        return to_uint8(self.decode(data.float()).clamp(-1, 1))

    def classes(self, data: Tensor) -> Tensor:
        """Return the judge's class of clean states; int64 ``(B,)``."""
        return self.judge.logits(self.pixels(data)).argmax(-1)


@dataclass(frozen=True)
class TextSide:
    """What is held against a model of text.

    Attributes:
        train: tokens that it was trained on, ``(N, L)`` int64.
        test: tokens that it has not seen, likewise.
    """

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class Subject:
    """A trained model and what is read beside it.

    Attributes:
        name: of the model.
        network: in evaluation mode.
        process: what its output means; None for models without one.
        sampler: its own, of text; None otherwise.
        flow: the field that its solver integrates; None where the model has no equation in t, or only a network.
        depth: its network in depth; None where that has no stack of layers of one shape.
        images: see `ImageSide`; None for other modalities.
        text: see `TextSide`; None for other modalities.
        device: where the network is.
    """

    name: str
    network: nn.Module
    process: Any = None
    sampler: Any = None
    flow: TrainedField | None = None
    depth: TrainedField | None = None
    images: ImageSide | None = None
    text: TextSide | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def field(self) -> TrainedField | None:
        """The flow, or the depth of a model that has none."""
        return self.flow or self.depth

    @property
    def image_denoiser(self) -> AbstractDenoiser | None:
        """The denoiser of a model of images, which can be asked at one level of noise again and again."""
        return self.flow.denoiser if self.images is not None and self.flow is not None else None


@dataclass(frozen=True)
class Findings:
    """What a reading found.

    Attributes:
        metrics: by name: `Estimate`, numbers, or mappings of these.
        tables: by the name of their file, rows of the same columns.
        pictures: by the name of their file, sheets of images, uint8 ``(rows, columns, C, H, W)``.
        protocol: how it was measured, in words.
    """

    metrics: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    protocol: str = ""


class AbstractReading(ABC):
    """A question to a trained model.

    Attributes:
        samples: trajectories, sequences or starts that the answer is averaged over.
    """

    samples: int

    @abstractmethod
    def refusal(self, subject: Subject) -> str | None:
        """Say why the question makes no sense of a model; None if it does."""

    @abstractmethod
    def read(self, subject: Subject, seed: int) -> Findings:
        """Answer it; every draw derives from the seed.

        Args:
            subject: one that is not refused.
            seed: of this model's analysis.
        """


def positive(owner: object, *names: str) -> None:
    """Check whole numbers of a reading.

    Raises:
        ValueError: if one is not a whole number of at least 1.
    """
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(owner).__name__}: {name} = {value!r}; give a whole number of at least 1")


def estimate(values: Tensor) -> Estimate:
    """Average independent repetitions ``(N,)``."""
    return Estimate.from_values(values.double().flatten().cpu().numpy())


def with_error(name: str, values: Tensor) -> dict[str, float]:
    """Two cells of a row: the mean of repetitions and, as ``<name>_se``, its standard error (0 for one alone)."""
    found = estimate(values)
    return {name: found.mean, f"{name}_se": found.se or 0.0}
