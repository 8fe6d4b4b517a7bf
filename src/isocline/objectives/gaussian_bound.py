"""The variational bound of a Gaussian diffusion of discrete data, in continuous time.

Tokens w have latents x = f(w): one-hot vectors, embeddings. With SNR(t) = α²/σ² and z_t = α x + σ ε,

    −log p(w) ≤ KL(q(z_{t_max}|x) ‖ N(0, σ²)) + ½ ∫ (−dSNR/dt) E‖x − x̂(z_t)‖² dt − E log p(w|z_{t_min}),

the integral over [t_min, t_max]. It is a bound for any x̂ and any normalised p(w|z). With x̂ = E[x|z], α(t_max) = 0 and
the true posterior p(w|z_{t_min}) its mean over w is the entropy, which is the I-MMSE relation.

References: "Variational Diffusion Models", Kingma et al., 2021, Eqs. 11 to 18; "Mutual Information and Minimum
Mean-Square Error in Gaussian Channels", Guo, Shamai and Verdú, 2005.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.objectives.sequence_likelihood import LikelihoodEstimate, stratified_uniforms
from isocline.processes.gaussian import GaussianProcess

__all__ = ["AbstractBoundTimes", "BoundPoint", "LogNoiseShareTimes", "UniformBoundTimes", "gaussian_bound"]


class BoundPoint(NamedTuple):
    """Where the integral is evaluated.

    Attributes:
        t: times ``(B,)`` float64.
        weight: ½ (−dSNR/dt) over the density of t, ``(B,)`` float64.
    """

    t: Tensor
    weight: Tensor


class AbstractBoundTimes(ABC):
    """A law of t on [t_min, t_max]. Any choice gives the same integral; a good one gives it with less variance."""

    @abstractmethod
    def __call__(self, u: Tensor, process: GaussianProcess) -> BoundPoint:
        """Map uniforms ``u`` ``(B,)`` in (0, 1] to times and weights."""


class UniformBoundTimes(AbstractBoundTimes):
    """Uniform in t: for a schedule that spreads what is to be learnt evenly over t."""

    def __call__(self, u: Tensor, process: GaussianProcess) -> BoundPoint:
        """Weight (t_max − t_min) ρ (−ρ̇) with ρ = α/σ."""
        span = process.t_max - process.t_min
        t = process.t_min + span * u
        alpha, sigma, dalpha, dsigma = process.schedule(t)
        return BoundPoint(t, span * alpha * (alpha * dsigma - dalpha * sigma) / sigma**3)


class LogNoiseShareTimes(AbstractBoundTimes):
    """Uniform in ln(1 + ρ), ρ = α/σ: in ln ρ where data prevail, but finite where α = 0."""

    def __call__(self, u: Tensor, process: GaussianProcess) -> BoundPoint:
        """Weight ρ (1 + ρ) times the span of ln(1 + ρ)."""
        low, high = (process.schedule(t).log_ratio.exp().log1p() for t in (process.t_max, process.t_min))
        ratio = torch.expm1(low + (high - low) * u)
        t = process.schedule.inverse_log_ratio(ratio.log()).clamp(process.t_min, process.t_max)
        return BoundPoint(t, (high - low) * ratio * (1.0 + ratio))


@torch.no_grad()
def gaussian_bound(
    process: GaussianProcess,
    latents: Tensor,
    denoise: Callable[[Tensor, Tensor], Tensor],
    decode: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
    strata: int = 32,
    times: AbstractBoundTimes | None = None,
) -> LikelihoodEstimate:
    """Estimate the bound without bias, stratified over the law of t.

    Args:
        process: schedule and ends; σ(t_min) must not be 0.
        latents: clean latents ``(B, *event)`` of the tokens, a function of them alone.
        denoise: ``denoise(t, z) -> x̂`` of z's shape, t ``(B,)``.
        decode: ``decode(t, z) -> log p(w|z)``, the log-probability ``(B,)`` of the true tokens under a normalised law.
        generator: source of times and noise, on the latents' device.
        strata: cells of the law of t; as many evaluations per sequence, and one more to decode.
        times: law of t; uniform by default.

    Returns:
        Nats per sequence, a bound.

    Raises:
        ValueError: if σ(t_min) = 0, where the reconstruction says nothing and the integral diverges.
    """
    if not float(process.schedule(process.t_min).sigma) > 0:
        raise ValueError(f"t_min = {process.t_min} has sigma = 0; the bound needs t_min > 0, such as 0.001")
    times = UniformBoundTimes() if times is None else times

    def noisy(t: Tensor) -> Tensor:
        noise = torch.randn(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        return process.mix(latents, noise, process.schedule(t))

    last = process.schedule(process.t_max)
    squares = latents.flatten(1).double().square().sum(1)
    nats = 0.5 * float(last.alpha / last.sigma) ** 2 * squares
    for u in stratified_uniforms(strata, len(latents), generator):
        t, weight = times(u, process)
        error = (latents - denoise(t, noisy(t))).flatten(1).double().square().sum(1)
        nats = nats + weight * error / strata
    first = torch.full_like(nats, process.t_min)
    return LikelihoodEstimate(nats - decode(first, noisy(first)).double(), "bound")
