"""Stochastic interpolants: random paths x_t = (1 − t) x_0 + t x_1 + γ(t) z between two laws, both of them data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.problem import VectorField

__all__ = ["InterpolantSample", "StochasticInterpolant"]


class InterpolantSample(NamedTuple):
    """A point of a path.

    Attributes:
        t: times ``(B,)`` or ``()``.
        x: state (1 − t) x_0 + t x_1 + γ z, ``(B, *event)``.
        z: the noise, a network's target for the score −E[z | x]/γ.
        velocity: ẋ = x_1 − x_0 + γ̇ z, a network's target for the flow.
    """

    t: Tensor
    x: Tensor
    z: Tensor
    velocity: Tensor


class StochasticInterpolant:
    """x_t = (1 − t) x_0 + t x_1 + γ z with γ = c √(t (1 − t)) and z ~ N(0, I): a Brownian bridge's law at every t.

    Neither end need be noise, unlike under a `GaussianProcess`; t = 0 is the first law, t = 1 the second. The law of
    x_t is carried by the flow of b(t, x) = E[ẋ | x_t = x], and in either direction of time by an SDE whose extra drift
    is made of E[z | x_t = x] (`drift`, `diffusion`). γ̇ is infinite at both ends, b is not: networks are trained, and
    asked, at times in [t_min, 1 − t_min].

    Source: *Stochastic Interpolants: A Unifying Framework for Flows and Diffusions*, Albergo, Boffi & Vanden-Eijnden,
    2023, Definition 1, Theorem 6 and Corollary 18.

    Args:
        noise: c.
        t_min: distance that times keep from both ends.

    Raises:
        ValueError: if noise is negative, or t_min outside (0, ½).
    """

    def __init__(self, noise: float = 1.0, t_min: float = 1e-3) -> None:
        if not noise >= 0:
            raise ValueError(f"noise={noise} must not be negative")
        if not 0 < t_min < 0.5:
            raise ValueError(f"t_min={t_min} must be above 0 and below 0.5")
        self.noise = noise
        self.t_min = t_min

    def inside(self, t: Tensor) -> Tensor:
        """Return the time in [t_min, 1 − t_min] at which a network is asked for time t; float64, shape of t."""
        return t.to(torch.float64).clamp(self.t_min, 1 - self.t_min)

    def gamma(self, t: Tensor) -> Tensor:
        """Return γ, float64, shape of t."""
        t = t.to(torch.float64)
        return self.noise * (t * (1 - t)).sqrt()

    def sample(self, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor) -> InterpolantSample:
        """Return the state at time t, with what networks are to predict there.

        Args:
            x0: from the first law, ``(B, *event)``.
            x1: from the second.
            z: unit-variance noise.
            t: times strictly between 0 and 1, ``()`` or ``(B,)``.
        """
        t64 = t.to(torch.float64)
        gamma = self.gamma(t)
        # γ γ̇ = c² (1 − 2t)/2; without noise there is nothing to divide by.
        speed = self.noise * (1 - 2 * t64) / (2 * (t64 * (1 - t64)).sqrt())
        share, level, rate = (expand_like(value.to(x0.dtype), x0) for value in (t64, gamma, speed))
        return InterpolantSample(t, torch.lerp(x0, x1, share) + level * z, z, x1 - x0 + rate * z)

    def drift(self, velocity: VectorField, noise: VectorField, diffusivity: float, sign: int) -> VectorField:
        """Return the drift b ∓ κ γ E[z | x] of the SDE with noise √(2κ) γ dw, as a function of (t, x, cond).

        Args:
            velocity: b(t, x, cond).
            noise: E[z | x_t = x], as a function of (t, x, cond).
            diffusivity: κ, in units of γ²; 0 is the flow.
            sign: 1 for integration from t = 0 to 1, −1 for the way back.
        """

        def drift(t: Tensor, x: Tensor, cond: Any) -> Tensor:
            inside = self.inside(t)
            factor = expand_like((sign * diffusivity * self.gamma(t)).to(x.dtype), x)
            return velocity(inside, x, cond) - factor * noise(inside, x, cond)

        return drift

    def diffusion(self, diffusivity: float) -> VectorField:
        """Return √(2κ) γ(t) as a function of (t, x, cond), broadcastable to x."""

        def diffusion(t: Tensor, x: Tensor, cond: Any) -> Tensor:
            return expand_like((math.sqrt(2 * diffusivity) * self.gamma(t)).to(x.dtype), x)

        return diffusion
