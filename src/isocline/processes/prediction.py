"""One prediction space: data, noise, score, v and velocity are linear in (x_0, ε), so each converts into each.

With x = α x_0 + σ ε and a prediction p that satisfies c·p = a x_0 + b ε, another prediction q with coefficients
(a', b', c') is q = [(a'b − b'a) x + (b'α − a'σ) c p] / (c' (αb − σa)): one formula for all pairs. The factor c keeps
ends regular: a score stays usable as σ → 0, and a velocity where σ̇ is infinite (VP-linear at t = 0).

What cannot be had gives non-finite values: noise from a data prediction divides by σ, data from a noise prediction
divides by α. As σ → 0 ask for data, as α → 0 ask for noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.processes.schedule import ScheduleValues
from isocline.shapes import expand_like

__all__ = [
    "AbstractPrediction",
    "Coefficients",
    "DataPrediction",
    "DifferencePrediction",
    "NoisePrediction",
    "PreconditionedPrediction",
    "Prediction",
    "ScorePrediction",
    "TrigFlowPrediction",
    "VPrediction",
    "VelocityPrediction",
    "convert",
    "conversion",
]


class Coefficients(NamedTuple):
    """c·p = a x_0 + b ε; each entry has the shape of t."""

    a: Tensor
    b: Tensor
    c: Tensor


class AbstractPrediction(ABC):
    """What a network predicts or a sampler asks for: a linear combination of x_0 and ε."""

    @abstractmethod
    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (a, b, c) with c·p = a x_0 + b ε, a and b finite at both ends of the schedule."""

    def coefficients(self, values: ScheduleValues) -> tuple[Tensor, Tensor]:
        """Return (a, b) with p = a x_0 + b ε, float64, shape of t (infinite where p itself is)."""
        a, b, c = self.scaled_coefficients(values)
        return a / c, b / c

    def target(self, x0: Tensor, x1: Tensor, values: ScheduleValues) -> Tensor:
        """Return p for data ``x0`` and noise ``x1``, both ``(B, *event)``."""
        a, b = self.coefficients(values)
        return expand_like(a.to(x0.dtype), x0) * x0 + expand_like(b.to(x0.dtype), x0) * x1

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


Prediction = AbstractPrediction


class DataPrediction(AbstractPrediction):
    """p = x_0."""

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (1, 0, 1)."""
        one = torch.ones_like(values.alpha)
        return Coefficients(one, torch.zeros_like(one), one)

    def target(self, x0: Tensor, x1: Tensor, values: ScheduleValues) -> Tensor:
        """Return x_0 itself."""
        return x0


class NoisePrediction(AbstractPrediction):
    """p = ε, the unit-variance noise (*Denoising Diffusion Probabilistic Models*, Ho et al., 2020)."""

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (0, 1, 1)."""
        one = torch.ones_like(values.alpha)
        return Coefficients(torch.zeros_like(one), one, one)

    def target(self, x0: Tensor, x1: Tensor, values: ScheduleValues) -> Tensor:
        """Return ε itself."""
        return x1


class ScorePrediction(AbstractPrediction):
    """p = ∇ ln p_t(x) = −ε/σ (*Generative Modeling by Estimating Gradients*, Song & Ermon, 2019)."""

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (0, −1, σ): −ε = σ·score."""
        one = torch.ones_like(values.alpha)
        return Coefficients(torch.zeros_like(one), -one, values.sigma)


class VPrediction(AbstractPrediction):
    """p = v = α ε − σ x_0 (*Progressive Distillation*, Salimans & Ho, 2022), for any α² + σ²."""

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (−σ, α, 1)."""
        return Coefficients(-values.sigma, values.alpha, torch.ones_like(values.alpha))


class VelocityPrediction(AbstractPrediction):
    """p = u = α̇ x_0 + σ̇ ε, the probability flow's velocity (ε − x_0 on the linear path)."""

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (α̇, σ̇, 1), and its limit (0, 1, 0) where σ̇ is infinite."""
        one = torch.ones_like(values.alpha)
        infinite = values.dsigma.isinf()
        return Coefficients(
            values.dalpha.masked_fill(infinite, 0.0),
            values.dsigma.masked_fill(infinite, 1.0),
            one.masked_fill(infinite, 0.0),
        )


class DifferencePrediction(AbstractPrediction):
    """p = ε − x_0 under any schedule: the linear path's velocity (*Flow Matching*, Lipman et al., 2023)."""

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (−1, 1, 1)."""
        one = torch.ones_like(values.alpha)
        return Coefficients(-one, one, one)


class TrigFlowPrediction(AbstractPrediction):
    """p = (2/π) u on TrigFlow, where it equals σ_d cos(πt/2) ε − sin(πt/2) x_0.

    Source: *Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models*, Lu & Song, 2025, §3.
    """

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (2α̇/π, 2σ̇/π, 1)."""
        scale = 2 / torch.pi
        return Coefficients(scale * values.dalpha, scale * values.dsigma, torch.ones_like(values.alpha))


class PreconditionedPrediction(AbstractPrediction):
    """p = F, the raw output of EDM's preconditioned network: x_0 = c_skip x + c_out F at α = 1.

    With s = σ/α, c_skip = σ_d²/(s² + σ_d²) and c_out = s σ_d/√(s² + σ_d²),

        F = (σ x_0 − α σ_d² ε) / (σ_d √(σ² + α² σ_d²)),

    of unit variance at every σ for data of variance σ_d², and finite at both ends. Its squared error with weight 1 is
    EDM's loss: λ(s) c_out² = 1 for λ = (s² + σ_d²)/(s σ_d)². The network should see c_in x and c_noise, see
    `isocline.networks.preconditioning`.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Table 1, App. B.6.

    Args:
        sigma_data: σ_d, the data's standard deviation.

    Raises:
        ValueError: if sigma_data is not above 0.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ValueError(f"sigma_data={sigma_data} must be above 0")
        self.sigma_data = sigma_data

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (σ/n, −α σ_d²/n, 1) with n = σ_d √(σ² + α² σ_d²)."""
        data = self.sigma_data
        norm = data * torch.hypot(values.sigma, values.alpha * data)
        return Coefficients(values.sigma / norm, -values.alpha * data**2 / norm, torch.ones_like(norm))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PreconditionedPrediction) and self.sigma_data == other.sigma_data

    def __hash__(self) -> int:
        return hash((type(self), self.sigma_data))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sigma_data={self.sigma_data})"


def conversion(values: ScheduleValues, source: AbstractPrediction, target: AbstractPrediction) -> tuple[Tensor, Tensor]:
    """Return (k_x, k_p) with q = k_x x + k_p p for source p and target q; float64, shape of t.

    k_p is also the gain with which an error of p becomes an error of q at a fixed x.
    """
    a, b, c = source.scaled_coefficients(values)
    a_to, b_to, c_to = target.scaled_coefficients(values)
    determinant = (values.alpha * b - values.sigma * a) * c_to
    from_x = (a_to * b - b_to * a) / determinant
    from_p = (b_to * values.alpha - a_to * values.sigma) * c / determinant
    return from_x, from_p


def convert(
    p: Tensor, x: Tensor, values: ScheduleValues, source: AbstractPrediction, target: AbstractPrediction
) -> Tensor:
    """Turn one prediction into another.

    Args:
        p: prediction of kind ``source``, shape ``(B, *event)``.
        x: noisy state x_t, same shape.
        values: the schedule at t, entries of shape ``()`` or ``(B,)``.
        source: what p is.
        target: what is wanted.

    Returns:
        The prediction of kind ``target``, with x's dtype; p itself when the kinds agree.
    """
    if source == target:
        return p.to(x.dtype)
    from_x, from_p = conversion(values, source, target)
    return expand_like(from_x.to(x.dtype), x) * x + expand_like(from_p.to(x.dtype), x) * p.to(x.dtype)
