"""Keep predicted images in the range of images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.prediction import AbstractPrediction, DataPrediction, convert
from isocline.samplers.wrapped_denoiser import AbstractWrappedDenoiser
from isocline.shapes import expand_like

__all__ = ["AbstractThreshold", "ClippedDenoiser", "ThresholdedDenoiser"]


class AbstractThreshold(AbstractWrappedDenoiser):
    """Bound the predicted x_0; the other predictions follow from it and the state.

    Where α is small, x_0 = (x − σ ε) / α magnifies the error of a noise prediction, and guidance leads out of the
    data's range; a bound on x_0 mends both. Where σ = 0 the prediction is left alone: there the state itself is the
    data.

    Args:
        denoiser: what is wrapped.
    """

    @abstractmethod
    def bound(self, data: Tensor) -> Tensor:
        """Return the bounded x_0, ``(B, *event)``."""

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the prediction ``to`` that belongs to the bounded x_0; see the base class."""
        data, own, values = DataPrediction(), self.process.prediction, self.process.schedule(t)
        found = self.denoiser.predict(t, x, cond, own)

        def converted(p: Tensor, source: AbstractPrediction, target: AbstractPrediction) -> Tensor:
            return p if source == target else convert(p, x, values, source, target)

        bounded = self.bound(converted(found, own, data))
        return torch.where(expand_like(values.sigma, x) > 0, converted(bounded, data, to), converted(found, own, to))


class ClippedDenoiser(AbstractThreshold):
    """Clip the predicted x_0 to [low, high].

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
        super().__init__(denoiser)
        self.low = low
        self.high = high

    def bound(self, data: Tensor) -> Tensor:
        """Return x_0 clipped."""
        return data.clamp(self.low, self.high)


class ThresholdedDenoiser(AbstractThreshold):
    """Clip the predicted x_0 to [−m, m] and divide it by m, with m a quantile of each sample's |x_0|, at least 1.

    Unlike clipping it keeps pixels apart that strong guidance drives beyond the range: dynamic thresholding, for data
    in [−1, 1].

    Source: *Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding*, Saharia et al., 2022,
    §2.3.

    Args:
        denoiser: what is wrapped.
        quantile: share of a sample's values that are to be in range.

    Raises:
        ValueError: unless 0 < quantile <= 1.
    """

    def __init__(self, denoiser: AbstractDenoiser, quantile: float = 0.995) -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile = {quantile}: must be in (0, 1]")
        super().__init__(denoiser)
        self.quantile = quantile

    def bound(self, data: Tensor) -> Tensor:
        """Return x_0 clipped and scaled, sample by sample."""
        limit = expand_like(data.flatten(1).abs().quantile(self.quantile, dim=1).clamp(min=1.0), data)
        return data.clamp(-limit, limit) / limit
