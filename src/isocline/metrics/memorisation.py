"""Does the model draw its training images again?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.metrics.nearest_neighbours import nearest_squared_distances

__all__ = ["Memorisation", "memorisation"]


class Memorisation(NamedTuple):
    """Nearest-neighbour evidence of copying.

    Attributes:
        ratio: median pixel distance of samples to the training set over that of unseen real images; 1 means as
            far as unseen data, near 0 means copies.
        copies: share of samples whose nearest training image is less than a third as far as the second nearest.
    """

    ratio: float
    copies: float


def memorisation(generated: Tensor, train: Tensor, test: Tensor, threshold: float = 1.0 / 3.0) -> Memorisation:
    """Measure distances to the training set in pixels.

    The copy rule ``d_1 / d_2 < 1/3`` is that of Yoon et al., "Diffusion probabilistic models generalize when they
    fail to memorize", 2023. Distances are exact: uint8 entries, float64 sums.

    Args:
        generated: images ``(N, C, H, W)`` uint8.
        train: training images ``(M, C, H, W)`` uint8.
        test: held-out images ``(K, C, H, W)`` uint8.
        threshold: ratio below which a sample counts as a copy.

    Raises:
        ValueError: if images are not uint8.
    """
    for name, images in (("generated", generated), ("train", train), ("test", test)):
        if images.dtype != torch.uint8:
            raise ValueError(f"{name} images are {images.dtype}; quantise them to uint8 first")
    near = nearest_squared_distances(generated.flatten(1), train.flatten(1), 2).sqrt()
    unseen = nearest_squared_distances(test.flatten(1), train.flatten(1), 1).sqrt()
    copies = (near[:, 0] < threshold * near[:, 1]) | (near[:, 0] == 0)
    floor = float(unseen[:, 0].median())
    if floor == 0.0:
        raise ValueError("more than half of the test images are also training images; mend the split first")
    return Memorisation(float(near[:, 0].median()) / floor, float(copies.double().mean()))
