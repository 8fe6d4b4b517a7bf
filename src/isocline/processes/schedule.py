"""Schedules of the Gaussian processes x_t = α_t x_0 + σ_t ε, with time derivatives, in float64.

t = 0 is data, t = 1 is noise. λ = ln(α/σ) is *half* the log signal-to-noise ratio.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "AbstractSchedule",
    "EDMSchedule",
    "InterpolantSchedule",
    "LinearSchedule",
    "Schedule",
    "ScheduleValues",
    "TrigFlowSchedule",
    "VESchedule",
    "VPCosineSchedule",
    "VPLinearSchedule",
]

HALF_PI = math.pi / 2


class ScheduleValues(NamedTuple):
    """A schedule at given times; every entry is float64 with the shape of t, ``()`` or ``(B,)``.

    Attributes:
        alpha: α, factor of the data.
        sigma: σ, standard deviation of the noise.
        dalpha: dα/dt.
        dsigma: dσ/dt.
    """

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    dsigma: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """λ = ln(α/σ); +∞ where σ = 0, −∞ where α = 0."""
        return self.alpha.log() - self.sigma.log()


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be a finite number above 0")


class AbstractSchedule(ABC):
    """Maps times to (α, σ, α̇, σ̇). Computes in float64 whatever the dtype of t."""

    def __call__(self, t: Tensor | float) -> ScheduleValues:
        """Evaluate the schedule.

        Args:
            t: times in [0, 1], shape ``()`` or ``(B,)``.

        Returns:
            α, σ and their time derivatives, float64, shape of t.
        """
        return self._values(torch.as_tensor(t, dtype=torch.float64))

    def log_ratio(self, t: Tensor | float) -> Tensor:
        """Return λ(t) = ln(α/σ), decreasing in t, float64."""
        return self(t).log_ratio

    @abstractmethod
    def _values(self, t: Tensor) -> ScheduleValues: ...

    @abstractmethod
    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the time at which λ(t) = log_ratio, float64.

        λ = +∞ gives the time at which σ would vanish. Values beyond those reached on [0, 1] extrapolate the
        formula; nothing is clipped here.
        """


Schedule = AbstractSchedule


class LinearSchedule(AbstractSchedule):
    """α = 1 − t, σ = t: flow matching's and rectified flow's straight path.

    Source: *Flow Matching for Generative Modeling*, Lipman et al., 2023; *Flow Straight and Fast*, Liu et al., 2023
    (with time reversed: here t = 0 is data).
    """

    def _values(self, t: Tensor) -> ScheduleValues:
        one = torch.ones_like(t)
        return ScheduleValues(1 - t, t, -one, one)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return t = 1/(1 + e^λ)."""
        return torch.sigmoid(-torch.as_tensor(log_ratio, dtype=torch.float64))


class InterpolantSchedule(AbstractSchedule):
    """α = 1 − t, σ² = t² + γ², γ = c √(t(1 − t)): the straight path with the noise of a Brownian bridge on it.

    (1 − t) x_0 + t x_1 + γ z with Gaussian x_1 and z is one Gaussian process, since t x_1 + γ z ~ N(0, σ²). In
    σ² = t (c² + (1 − c²) t) nothing cancels; σ̇ = (c² + 2 (1 − c²) t)/(2σ) is infinite at t = 0. At c = 1, σ = √t.

    Source: *Stochastic Interpolants*, Albergo, Boffi & Vanden-Eijnden, 2023, §3; *Improving and Generalizing
    Flow-Based Generative Models with Minibatch Optimal Transport*, Tong et al., 2024, §3.2.4 (Schrödinger bridge).

    Args:
        noise: c, the bridge's diffusion coefficient.

    Raises:
        ValueError: if noise is not above 0 (without noise it is `LinearSchedule`).
    """

    def __init__(self, noise: float = 0.5) -> None:
        _check_positive(noise=noise)
        self.variance = noise**2

    def _values(self, t: Tensor) -> ScheduleValues:
        c = self.variance
        sigma = (t * (c + (1 - c) * t)).sqrt()
        return ScheduleValues(1 - t, sigma, -torch.ones_like(t), (c + 2 * (1 - c) * t) / (2 * sigma))

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the root in [0, 1] of (1 − t)² = e^{2λ} σ², written without cancellation."""
        snr = (2 * torch.as_tensor(log_ratio, dtype=torch.float64)).exp()
        half = self.variance * snr
        return 2 / (2 + half + (half.square() + 4 * snr).sqrt())


class VPLinearSchedule(AbstractSchedule):
    """Variance preserving with linear β(t) = β0 + t(β1 − β0), the continuous limit of DDPM.

    ln α = −¼ t² (β1 − β0) − ½ t β0, σ = √(1 − α²), α̇ = −½ β α, σ̇ = ½ β α²/σ (infinite at t = 0).

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, Eqs. 11 and 33.

    Args:
        beta_min: β0.
        beta_max: β1.

    Raises:
        ValueError: unless 0 < beta_min < beta_max.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        _check_positive(beta_min=beta_min, beta_max=beta_max)
        if beta_min >= beta_max:
            raise ValueError(f"beta_min={beta_min} must be below beta_max={beta_max}")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * (0.25 * t * (self.beta_max - self.beta_min) + 0.5 * self.beta_min)

    def _values(self, t: Tensor) -> ScheduleValues:
        log_alpha = self._log_alpha(t)
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        alpha = log_alpha.exp()
        sigma = (-torch.expm1(2 * log_alpha)).sqrt()
        return ScheduleValues(alpha, sigma, -0.5 * beta * alpha, 0.5 * beta * alpha.square() / sigma)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the positive root of a quadratic in t."""
        lam = torch.as_tensor(log_ratio, dtype=torch.float64)
        # −ln α = ½ ln(1 + e^{−2λ}); then the positive root of ¼Δβ t² + ½β0 t + ln α = 0, free of cancellation.
        minus_log_alpha = 0.5 * torch.logaddexp(torch.zeros_like(lam), -2 * lam)
        half = 0.5 * self.beta_min
        root = (half**2 + (self.beta_max - self.beta_min) * minus_log_alpha).sqrt()
        return 2 * minus_log_alpha / (half + root)


class VPCosineSchedule(AbstractSchedule):
    """Variance preserving on the unit circle: α = cos φ, σ = sin φ with φ affine in t.

    By default φ = πt/2, which reaches α = 0 exactly. With ``max_log_ratio`` the angle runs between the two values
    at which λ = ±max_log_ratio, so that neither α nor σ vanishes (and data at t = 0 are slightly smoothed).

    Source: *Improved Denoising Diffusion Probabilistic Models*, Nichol & Dhariwal, 2021; the bounded range follows
    *Understanding Diffusion Objectives as the ELBO*, Kingma & Gao, 2023.

    Args:
        max_log_ratio: bound on |λ|, or None for the whole quarter circle.

    Raises:
        ValueError: if max_log_ratio is not above 0.
    """

    def __init__(self, max_log_ratio: float | None = None) -> None:
        self.first = 0.0
        if max_log_ratio is not None:
            _check_positive(max_log_ratio=max_log_ratio)
            self.first = math.atan(math.exp(-max_log_ratio)) / HALF_PI
        self.span = 1 - 2 * self.first

    def _values(self, t: Tensor) -> ScheduleValues:
        phase = self.first + self.span * t
        # cos as the sine of the complement: exactly 0 at t = 1 and exactly 1 at t = 0.
        alpha = torch.sin(HALF_PI * (1 - phase))
        sigma = torch.sin(HALF_PI * phase)
        speed = HALF_PI * self.span
        return ScheduleValues(alpha, sigma, -speed * sigma, speed * alpha)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the time whose angle is arctan e^−λ."""
        phase = torch.atan(torch.exp(-torch.as_tensor(log_ratio, dtype=torch.float64))) / HALF_PI
        return (phase - self.first) / self.span


class VESchedule(AbstractSchedule):
    """Variance exploding: α = 1, σ = σmin (σmax/σmin)^t. At t = 0 data are smoothed by σmin.

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, Eq. 31.

    Args:
        sigma_min: noise at t = 0.
        sigma_max: noise at t = 1.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        _check_positive(sigma_min=sigma_min, sigma_max=sigma_max)
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min={sigma_min} must be below sigma_max={sigma_max}")
        self.sigma_min = sigma_min
        self.growth = math.log(sigma_max / sigma_min)

    def _values(self, t: Tensor) -> ScheduleValues:
        sigma = self.sigma_min * torch.exp(self.growth * t)
        return ScheduleValues(torch.ones_like(t), sigma, torch.zeros_like(t), self.growth * sigma)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the time at which σ = e^−λ."""
        lam = torch.as_tensor(log_ratio, dtype=torch.float64)
        return (-lam - math.log(self.sigma_min)) / self.growth


class EDMSchedule(AbstractSchedule):
    """α = 1, σ = (σmin^{1/ρ} + t (σmax^{1/ρ} − σmin^{1/ρ}))^ρ: EDM's noise levels as a continuous time.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Eq. 5 (with
    time reversed: here t = 0 is σmin).

    Args:
        sigma_min: noise at t = 0.
        sigma_max: noise at t = 1.
        rho: exponent; larger spends more of [0, 1] on small noise.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max and rho > 0.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        _check_positive(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min={sigma_min} must be below sigma_max={sigma_max}")
        self.rho = rho
        self.low = sigma_min ** (1 / rho)
        self.span = sigma_max ** (1 / rho) - self.low

    def _values(self, t: Tensor) -> ScheduleValues:
        root = self.low + t * self.span
        return ScheduleValues(
            torch.ones_like(t), root**self.rho, torch.zeros_like(t), self.rho * self.span * root ** (self.rho - 1)
        )

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the time at which σ = e^−λ."""
        lam = torch.as_tensor(log_ratio, dtype=torch.float64)
        return (torch.exp(-lam / self.rho) - self.low) / self.span


class TrigFlowSchedule(AbstractSchedule):
    """α = cos(πt/2), σ = σ_d sin(πt/2), σ_d the standard deviation of the data.

    Source: *Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models*, Lu & Song, 2025, §3 (whose
    time is the angle; here the angle is πt/2).

    Args:
        sigma_data: σ_d.

    Raises:
        ValueError: if sigma_data is not above 0.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        _check_positive(sigma_data=sigma_data)
        self.sigma_data = sigma_data

    def _values(self, t: Tensor) -> ScheduleValues:
        cosine, sine = torch.sin(HALF_PI * (1 - t)), torch.sin(HALF_PI * t)
        scale = self.sigma_data
        return ScheduleValues(cosine, scale * sine, -HALF_PI * sine, HALF_PI * scale * cosine)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return the time whose angle is arctan(e^−λ/σ_d)."""
        ratio = torch.exp(-torch.as_tensor(log_ratio, dtype=torch.float64))
        return torch.atan(ratio / self.sigma_data) / HALF_PI
