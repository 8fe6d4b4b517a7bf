"""Point sets in few dimensions: 2-D toys drawn afresh, and tables that scikit-learn brings along."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "BreastCancer",
    "Checkerboard",
    "DigitComponents",
    "EightGaussians",
    "PointDataset",
    "PointScale",
    "TwoMoons",
]


class PointScale(NamedTuple):
    """x ↦ (x − mean) @ matrix, fitted on the training split.

    Attributes:
        mean: ``(D,)``.
        matrix: ``(D, d)``.
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Scale raw points ``(N, D)`` to ``(N, d)``."""
        return (points - self.mean) @ self.matrix


class PointDataset(ABC):
    """A set of points in R^D: what it is, and how it is read or drawn.

    Attributes:
        name: short name.
        source: where it comes from.
        licence: under which terms.
    """

    name: str
    source: str
    licence: str

    @abstractmethod
    def load(self, generator: torch.Generator) -> Tensor:
        """All raw points, float64 ``(N, D)``; what is random in them comes from the generator."""

    def fit(self, train: Tensor) -> PointScale:
        """Standardise each coordinate by the mean and standard deviation of the training split."""
        return PointScale(train.mean(0), torch.diag(1.0 / train.std(0)))


class _Toy(PointDataset):
    source = "drawn by isocline"
    licence = "none needed"

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"size = {size}: draw at least 2 points")
        self.size = size


class TwoMoons(_Toy):
    """Two interleaved half circles with Gaussian noise.

    Args:
        size: points drawn.
        noise: standard deviation of the noise; the half circles have radius 1.

    Raises:
        ValueError: if a value is out of range.
    """

    name = "moons"

    def __init__(self, size: int = 6000, noise: float = 0.08) -> None:
        super().__init__(size)
        self.noise = _positive("noise", noise)

    def load(self, generator: torch.Generator) -> Tensor:
        """Half of the points, in expectation, on each moon."""
        angle = math.pi * torch.rand(self.size, generator=generator, dtype=torch.float64)
        lower = torch.rand(self.size, generator=generator) < 0.5
        first = torch.stack([angle.cos(), angle.sin()], dim=1)
        second = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
        return torch.where(lower[:, None], second, first) + self.noise * _normal(self.size, generator)


class EightGaussians(_Toy):
    """Eight equal Gaussians around a circle.

    Args:
        size: points drawn.
        radius: of the circle.
        noise: standard deviation of each Gaussian.

    Raises:
        ValueError: if a value is out of range.
    """

    name = "eight_gaussians"

    def __init__(self, size: int = 6000, radius: float = 4.0, noise: float = 0.5) -> None:
        super().__init__(size)
        self.radius, self.noise = _positive("radius", radius), _positive("noise", noise)

    def load(self, generator: torch.Generator) -> Tensor:
        """Each point from a Gaussian chosen at random."""
        angle = math.pi / 4 * torch.randint(8, (self.size,), generator=generator).to(torch.float64)
        centres = self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        return centres + self.noise * _normal(self.size, generator)


class Checkerboard(_Toy):
    """The black squares of a board of 4 × 4: uniform, with jumps of the density at every edge.

    Args:
        size: points drawn.

    Raises:
        ValueError: if it is out of range.
    """

    name = "checkerboard"

    def __init__(self, size: int = 6000) -> None:
        super().__init__(size)

    def load(self, generator: torch.Generator) -> Tensor:
        """Points on [−2, 2]²."""
        x = 4 * torch.rand(self.size, generator=generator, dtype=torch.float64) - 2
        row = 2 * torch.randint(2, (self.size,), generator=generator) + x.floor().long().remainder(2) - 2
        return torch.stack([x, row + torch.rand(self.size, generator=generator, dtype=torch.float64)], dim=1)


class DigitComponents(PointDataset):
    """Leading principal components of 1,797 handwritten digits (8×8), each of unit variance on the training split.

    Pixels have 17 levels: uniform noise of one level is added first, so that there is a density.

    Kaynak, "Methods of combining multiple classifiers and their applications to handwritten digit recognition", 1995.

    Args:
        components: how many.

    Raises:
        ValueError: unless there are 2 to 50.
    """

    name = "digit_components"
    source = "scikit-learn load_digits (UCI optical recognition of handwritten digits, test part)"
    licence = "CC BY 4.0"

    def __init__(self, components: int = 8) -> None:
        if not 2 <= components <= 50:
            raise ValueError(f"components = {components}: must be from 2 to 50")
        self.components = components

    def load(self, generator: torch.Generator) -> Tensor:
        """Dequantised pixels, ``(1797, 64)``."""
        from sklearn.datasets import load_digits

        levels = torch.from_numpy(load_digits().data).to(torch.float64)
        return levels + torch.rand(levels.shape, generator=generator, dtype=torch.float64)

    def fit(self, train: Tensor) -> PointScale:
        """Principal axes of the training split; an axis points where its largest entry is positive."""
        mean = train.mean(0)
        axes = torch.linalg.svd(train - mean, full_matrices=False).Vh[: self.components].mT
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        return PointScale(mean, axes / ((train - mean) @ axes).std(0))


class BreastCancer(PointDataset):
    """Thirty measurements of 569 tumours' cell nuclei; all positive and skewed, so their logarithms are taken.

    Street, Wolberg and Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993.
    """

    name = "breast_cancer"
    source = "scikit-learn load_breast_cancer (UCI breast cancer Wisconsin, diagnostic)"
    licence = "CC BY 4.0"

    def load(self, generator: torch.Generator) -> Tensor:
        """ln(x + 0.01) of the bundled table: some measurements are 0."""
        from sklearn.datasets import load_breast_cancer

        return (torch.from_numpy(load_breast_cancer().data).to(torch.float64) + 0.01).log()


def _normal(size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(size, 2, generator=generator, dtype=torch.float64)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} = {value}: must be above 0")
    return value
