"""Keep predicted images in the range of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction, DataPrediction, convert
from isocline.shapes import expand_like

__all__ = ["ClippedDenoiser"]


class ClippedDenoiser(AbstractDenoiser):
    """Clip the predicted x_0 to [low, high]; the other predictions follow from it and the state.

    Where α is small, x_0 = (x − σ ε) / α magnifies the error of a noise prediction; clipping bounds it. Where σ = 0
    the prediction is left alone: there the state itself is the data.

    Source: *Denoising Diffusion Probabilistic Models*, Ho et al., 2020, §3 (their released code); called static
    thresholding in *Photorealistic Text-to-Image Diffusion Models*, Saharia et al., 2022, §2.3.

    Args:
        denoiser: what is wrapped.
        low: least value of the data.
        high: largest value of the data.

    Raises:
        ValueError: unless low < high.
    """

    def __init__(self, denoiser: AbstractDenoiser, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"low = {low}, high = {high}: clipping needs low < high")
        self.denoiser = denoiser
        self.low = low
        self.high = high

    @property
    def process(self) -> GaussianProcess:
        """The process of the wrapped denoiser."""
        return self.denoiser.process

    @property
    def evaluations(self) -> int:
        """Those of the wrapped denoiser."""
        return self.denoiser.evaluations

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the prediction ``to`` that belongs to the clipped x_0; see the base class."""
        data, own, values = DataPrediction(), self.process.prediction, self.process.schedule(t)
        found = self.denoiser.predict(t, x, cond, own)

        def converted(p: Tensor, source: AbstractPrediction, target: AbstractPrediction) -> Tensor:
            return p if source == target else convert(p, x, values, source, target)

        clipped = converted(found, own, data).clamp(self.low, self.high)
        return torch.where(expand_like(values.sigma, x) > 0, converted(clipped, data, to), converted(found, own, to))
