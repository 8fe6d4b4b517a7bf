"""Pixels for the page: grids and film strips as PNG data URIs, encoded the same way every time."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]
GAP = 2


def to_pixels(image: Bytes) -> Bytes:
    """(C, H, W) with one or three channels to (H, W) or (H, W, 3)."""
    if image.shape[0] == 1:
        return image[0]
    return np.ascontiguousarray(np.moveaxis(image[:3], 0, -1))


def tile(images: Bytes, columns: int, gap: int = GAP) -> Bytes:
    """Lay images (N, C, H, W) out row by row on a mid-grey ground with `gap` pixels between neighbours.

    Returns:
        (rows·(H + gap) − gap, columns·(W + gap) − gap[, 3]) uint8.
    """
    n, _, height, width = images.shape
    rows = math.ceil(n / columns)
    first = to_pixels(images[0])
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *first.shape[2:])
    sheet = np.full(shape, 128, dtype=np.uint8)
    for index in range(n):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = to_pixels(images[index])
    return sheet


def film(states: Bytes, rows: int, gap: int = GAP) -> Bytes:
    """States (K, N, C, H, W) as a strip: one sample a row, time running from left to right."""
    states = states[:, :rows]
    ordered = states.swapaxes(0, 1).reshape(-1, *states.shape[2:])
    return tile(ordered, columns=len(states), gap=gap)


def sprite(states: Bytes, columns: int) -> Bytes:
    """One grid per state side by side with no space between: the slider moves this sheet behind a window."""
    return np.concatenate([tile(frame, columns) for frame in states], axis=1)


def thin(count: int, most: int) -> list[int]:
    """At most `most` indices spread evenly over range(count), both ends included."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def enlarge(pixels: Bytes, times: int) -> Bytes:
    """Every pixel of (H, W[, 3]) as a square of `times` by `times`."""
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def png(pixels: Bytes) -> bytes:
    """Encode as PNG: no metadata, fixed compression."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def data_uri(pixels: Bytes) -> str:
    """A PNG as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def square_columns(count: int, choices: Sequence[int] = (8, 6, 5, 4, 3, 2)) -> int:
    """The widest grid of `choices` that `count` images fill as a square, else their rounded root."""
    return next((c for c in choices if count >= c * c), max(1, math.isqrt(count)))
