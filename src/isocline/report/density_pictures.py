"""Densities as pixels: the density itself in two dimensions, a histogram of samples in more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocline.report.pictures import Bytes

__all__ = ["density_picture", "heat", "histogram"]

_STOPS = np.array([[247, 247, 250], [186, 205, 232], [94, 140, 200], [40, 76, 148], [16, 24, 62]], dtype=np.float64)
"""From nothing to the highest density: light to dark in one hue, readable without colour."""
_BINS, _EXTENT = 64, 3.0


def heat(values: NDArray[Any]) -> Bytes:
    """Colour values ``(H, W)`` from 0 to 1; what lies outside is cut off. Returns ``(H, W, 3)`` uint8."""
    place = np.clip(np.nan_to_num(values.astype(np.float64)), 0.0, 1.0) * (len(_STOPS) - 1)
    low = np.minimum(place.astype(np.int64), len(_STOPS) - 2)
    share = (place - low)[..., None]
    return np.rint(_STOPS[low] * (1 - share) + _STOPS[low + 1] * share).astype(np.uint8)


def histogram(points: NDArray[Any], bins: int = _BINS, extent: float = _EXTENT) -> NDArray[Any]:
    """Counts of the first two coordinates on [−extent, extent]², rows from top to bottom, as shares of the highest."""
    span = [[-extent, extent]] * 2
    counts, _, _ = np.histogram2d(-points[:, 1], points[:, 0], bins=bins, range=span)
    return counts / max(counts.max(), 1.0)


def density_picture(tensors: Mapping[str, NDArray[Any]]) -> Bytes:
    """The picture of one evaluation: its density where that is two-dimensional, else its samples' histogram.

    Args:
        tensors: ``log_density`` (G, G) if there is one, and ``samples`` (N, d).

    Returns:
        ``(H, W, 3)`` uint8; the colour is the density's square root as a share of the highest.
    """
    log_density = tensors.get("log_density")
    if log_density is None:
        return heat(np.sqrt(histogram(tensors["samples"], bins=32)))
    return heat(np.exp(0.5 * (log_density - log_density.max())))
