"""Weights w(t) of matching losses, each defined in the space that its source uses and carried to the network's.

At a fixed x an error δp of the network is an error k δp of another prediction (`prediction.conversion` gives k), so a
weight on that prediction's squared error is k² times as large on the network's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction, DataPrediction, NoisePrediction, conversion
from isocline.processes.schedule import ScheduleValues

__all__ = [
    "AbstractWeighting",
    "EDMWeighting",
    "ImportanceWeighting",
    "LikelihoodWeighting",
    "MinSNRWeighting",
    "SigmaSquaredWeighting",
    "TruncatedSNRWeighting",
    "UniformWeighting",
    "Weighting",
    "weighted_mean",
]

_DATA, _NOISE = DataPrediction(), NoisePrediction()


def weighted_mean(errors: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of w e over the batch.

    Args:
        errors: ``(B,)``.
        weight: ``(B,)`` of any floating dtype, or None for weight one.
    """
    return errors.mean() if weight is None else (weight.to(errors.dtype) * errors).mean()


class AbstractWeighting(ABC):
    """``weighting(values, prediction) -> (B,)`` float64, or None for weight one, on the network's squared error."""

    @abstractmethod
    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor | None:
        """Return the weights.

        Args:
            values: the schedule at the training times ``(B,)``.
            prediction: what the network predicts.
        """


Weighting = AbstractWeighting


def _gain(values: ScheduleValues, source: AbstractPrediction, target: AbstractPrediction) -> Tensor:
    return conversion(values, source, target)[1].square()


class UniformWeighting(AbstractWeighting):
    """w = 1 on whatever the network predicts: the velocity loss of flow matching, DDPM's simple loss for ε."""

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor | None:
        """Return None: nothing to multiply."""
        return None


class SigmaSquaredWeighting(AbstractWeighting):
    """w = σ² on the score's error, that is 1 on the noise's.

    Source: *Generative Modeling by Estimating Gradients of the Data Distribution*, Song & Ermon, 2019, §4.2.
    """

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor:
        """Return the weights."""
        return _gain(values, prediction, _NOISE)


class MinSNRWeighting(AbstractWeighting):
    """w = min(SNR, γ) on the data's error, SNR = α²/σ² = e^{2λ}.

    Source: *Efficient Diffusion Training via Min-SNR Weighting Strategy*, Hang et al., 2023, §3.4.

    Args:
        gamma: γ.

    Raises:
        ValueError: if gamma is not above 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma={gamma} must be above 0")
        self.gamma = gamma

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor:
        """Return the weights."""
        ratio = (values.alpha / values.sigma).square()
        return ratio.clamp(max=self.gamma) * _gain(values, prediction, _DATA)


class TruncatedSNRWeighting(AbstractWeighting):
    """w = max(SNR, 1) on the data's error, SNR = α²/σ²: the larger of the data's and the noise's squared error.

    The article's other weight, SNR + 1, is `EDMWeighting` with ``sigma_data=1``.

    Source: *Progressive Distillation for Fast Sampling of Diffusion Models*, Salimans & Ho, 2022, §4, Eq. 9.
    """

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor:
        """Return the weights."""
        ratio = (values.alpha / values.sigma).square()
        return ratio.clamp(min=1.0) * _gain(values, prediction, _DATA)


class EDMWeighting(AbstractWeighting):
    """w = (s² + σ_d²)/(s σ_d)² on the data's error, with s = σ/α.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Table 1.

    Args:
        sigma_data: σ_d, the data's standard deviation.

    Raises:
        ValueError: if sigma_data is not above 0.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ValueError(f"sigma_data={sigma_data} must be above 0")
        self.sigma_data = sigma_data

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor:
        """Return the weights."""
        precision = (values.alpha / values.sigma).square() + self.sigma_data**-2
        return precision * _gain(values, prediction, _DATA)


class LikelihoodWeighting(AbstractWeighting):
    """w = g² on the score's error, g² = 2σσ̇ − 2(α̇/α)σ²: half its integral bounds the negative log-likelihood.

    On the noise's error that is g²/σ² = 2(σ̇/σ − α̇/α), which diverges as σ → 0: train with t_min > 0.

    Source: *Maximum Likelihood Training of Score-Based Diffusion Models*, Song et al., 2021, Eq. 7.
    """

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor:
        """Return the weights."""
        # k for ε is α c / det: its α cancels the 1/α of g², so the product stays finite at α = 0.
        a, b, c = prediction.scaled_coefficients(values)
        determinant = values.alpha * b - values.sigma * a
        turning = values.alpha * values.dsigma - values.dalpha * values.sigma
        return 2 * values.alpha * turning / values.sigma * torch.square(c / determinant)


class ImportanceWeighting(AbstractWeighting):
    """w/q for times drawn by `LogRatioTimes`: the expected loss is that of w under uniform times.

    q = −λ̇ (t_max − t_min)/(λ(t_min) − λ(t_max)), relative to the uniform law. With the likelihood's weight, w/q on the
    noise's error is one constant: the variance that comes from the weight is gone.

    Args:
        weighting: w.
        process: whose times are drawn.
    """

    def __init__(self, weighting: AbstractWeighting, process: GaussianProcess) -> None:
        self.weighting = weighting
        ends = process.schedule.log_ratio(torch.tensor([process.t_min, process.t_max], dtype=torch.float64))
        self.speed = float(ends[0] - ends[1]) / (process.t_max - process.t_min)

    def __call__(self, values: ScheduleValues, prediction: AbstractPrediction) -> Tensor:
        """Return the weights."""
        density = (values.dsigma / values.sigma - values.dalpha / values.alpha) / self.speed
        weight = self.weighting(values, prediction)
        return 1.0 / density if weight is None else weight / density
