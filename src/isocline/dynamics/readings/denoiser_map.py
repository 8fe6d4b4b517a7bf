"""A denoiser with its time held fixed, as a map of clean data to clean data, and what its fixed points look like."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.dynamics.flow_field import VARIABLE
from isocline.dynamics.readings.base import ImageSide
from isocline.dynamics.readings.paths import follow
from isocline.dynamics.system import IteratedMap
from isocline.dynamics.trained_field import TrainedField
from isocline.processes.denoiser import AbstractDenoiser

__all__ = ["denoiser_map", "image_sheet", "time_of_noise", "typical_states"]


def denoiser_map(denoiser: AbstractDenoiser, noise: float, cond: Tensor | None = None) -> IteratedMap:
    """Return y ↦ D(α y, t) at the time t whose σ/(α + σ) is ``noise``.

    The state is handed over as data of that time would be but for its noise, so that a denoiser that knows one image
    alone has its fixed point there, at every time and under every process.

    Args:
        denoiser: the denoiser.
        noise: share of the noise, in (0, 1).
        cond: condition of the states, or None.
    """
    process = denoiser.process

    def law(at: Tensor, y: Tensor, given: Any) -> Tensor:
        return denoiser.data(at.to(y.device), float(process.schedule(at).alpha) * y, given)

    return IteratedMap(law, time_of_noise(denoiser, noise), cond)


def time_of_noise(denoiser: AbstractDenoiser, noise: float) -> float:
    """Return the time at which σ/(α + σ) is ``noise``, within the times that the network was trained at."""
    process = denoiser.process
    t = float(VARIABLE.time(process, torch.tensor(noise, dtype=torch.float64)))
    return min(max(t, process.t_min), process.t_max)


def typical_states(field: TrainedField, count: int, steps: int, seed: int) -> Tensor:
    """Return ends of the flow, ``(count, *event)``: samples, which iterations of a denoiser may start from."""
    return follow(field, count, steps, seed).ys[-1]


def image_sheet(images: Tensor, side: ImageSide, columns: int) -> list[Tensor]:
    """Return two rows of a sheet: images, and below them the training images nearest to them.

    Args:
        images: uint8 ``(N, C, H, W)``.
        side: the training images.
        columns: of the sheet; more images are left out, fewer are followed by black ones.

    Returns:
        Two of uint8 ``(columns, C, H, W)``.
    """
    shown = images[:columns]
    train = side.train.flatten(1).double()
    nearest = [int((train - image).square().sum(1).argmin()) for image in shown.flatten(1).double()]
    blank = images.new_zeros(columns - len(shown), *images.shape[1:])
    return [torch.cat([row, blank]) for row in (shown, side.train[nearest])]
