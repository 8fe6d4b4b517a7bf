"""Noise put before or after a step, so that the law of the state stays that of the process."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.randomness import Streams, normal
from isocline.samplers.noise_step import AbstractNoiseStep, noise_ratio
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import StepResult

__all__ = ["Ancestral", "Churned", "add_noise"]


def add_noise(y: Tensor, s0: float, s1: float, noise: Tensor) -> Tensor:
    """Go up from s0 to s1 ≥ s0 by the forward process: z1 = z0 + √(ρ1² − ρ0²) n.

    Args:
        y: state of `LinearPathVariable` at s0, below 1.
        s0: position.
        s1: position; may be 1, where nothing but noise is left.
        noise: n, unit-variance, shape of y.
    """
    # (1 − s1) ρ1 = s1: the products with 1 − s1 stay finite where ρ1 is infinite.
    kept = (1 - s1) / (1 - s0)
    return torch.add(y * kept, noise, alpha=math.sqrt(max(s1**2 - (kept * s0) ** 2, 0.0)))


class Ancestral(AbstractNoiseStep):
    """A step of the flow to below the end, then noise up to it; with `DDIMStep` the η of DDIM.

    The lower end is ρ_d = ρ1 √(1 − η² (1 − ρ1²/ρ0²)). η = 0 is the step itself, η = 1 with `DDIMStep` is DDPM's
    ancestral sampling.

    Source: *Denoising Diffusion Implicit Models*, Song et al., 2021, Eqs. 12 and 16: σ_d²/α² = η² ρ1² (1 − ρ1²/ρ0²).

    Args:
        step: the step of the flow.
        eta: η, from 0 to 1.
        generator: source of noise.
    """

    def __init__(self, step: AbstractNoiseStep, eta: float, generator: Streams) -> None:
        self.step, self.eta, self.generator = step, eta, generator

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """See the base class; nothing is added at the end of generation, σ = 0."""
        if s1 == 0:
            return self.step.advance(problem, y0, s0, s1)
        first, last = noise_ratio(s0), noise_ratio(s1)
        below = last * math.sqrt(max(1 - self.eta**2 * (1 - (last / first) ** 2), 0.0))
        lower = below / (1 + below)
        result = self.step.advance(problem, y0, s0, lower)
        noise = normal(y0.shape, self.generator, y0)
        return StepResult(add_noise(result.y1, lower, s1, noise), nfe=result.nfe)


class Churned(AbstractNoiseStep):
    """Noise up to ρ (1 + γ), then a step of the flow down from there.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Algorithm 2.

    Args:
        step: the step of the flow.
        gamma: γ, not negative.
        low: least σ/α at which noise is added, S_min.
        high: largest, S_max.
        scale: standard deviation of the noise that is added, S_noise.
        top: position that is not exceeded: generation's start.
        generator: source of noise.
    """

    def __init__(
        self,
        step: AbstractNoiseStep,
        gamma: float,
        low: float,
        high: float,
        scale: float,
        top: float,
        generator: Streams,
    ) -> None:
        self.step, self.gamma, self.low, self.high, self.scale = step, gamma, low, high, scale
        self.top, self.generator = top, generator

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """See the base class."""
        ratio = noise_ratio(s0)
        if self.low <= ratio <= self.high and s0 < self.top:
            raised = ratio * (1 + self.gamma)
            upper = min(raised / (1 + raised), self.top)
            y0 = add_noise(y0, s0, upper, self.scale * normal(y0.shape, self.generator, y0))
            s0 = upper
        return self.step.advance(problem, y0, s0, s1)
