"""EDM's sampler: Heun steps in σ/α, with noise before each of them where churn is above 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams
from isocline.samplers.noise_step import AbstractNoiseStep, HeunStep, NoiseStepper
from isocline.samplers.renoise import Churned
from isocline.samplers.straight_path import AbstractStraightPathSampler, required
from isocline.solvers.stepper import AbstractStepper

__all__ = ["EDMHeunSampler"]


class EDMHeunSampler(AbstractStraightPathSampler):
    """Heun's method for dz/dρ = ε, z = x/α, ρ = σ/α; n steps cost 2n − 1 evaluations, the last being Euler's.

    Args:
        grid: where the steps lie.
        churn: S_churn; γ = min(S_churn / number of steps, √2 − 1). 0 is the deterministic sampler.
        churn_min: S_min, least σ/α at which noise is added.
        churn_max: S_max, largest. Noise is never raised above generation's start.
        churn_noise: S_noise, standard deviation of the noise added.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if a number is out of range.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Algorithms 1, 2.
    """

    def __init__(
        self,
        grid: AbstractTimeGrid,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        if not (0 <= churn < math.inf and 0 <= churn_min <= churn_max and 0 <= churn_noise < math.inf):
            raise ValueError(
                f"churn={churn}, churn_min={churn_min}, churn_max={churn_max}, churn_noise={churn_noise}: none may be "
                "negative, churn and churn_noise must be finite, and churn_min at most churn_max"
            )
        self.churn, self.churn_min, self.churn_max, self.churn_noise = churn, churn_min, churn_max, churn_noise

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return n with 2n − 1 evaluations."""
        return (calls + 1) // 2

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return Heun's step; see the base class."""
        step: AbstractNoiseStep = HeunStep()
        if self.churn > 0:
            gamma = min(self.churn / (len(positions) - 1), math.sqrt(2) - 1)
            streams = required(generator, f"churn={self.churn}")
            step = Churned(step, gamma, self.churn_min, self.churn_max, self.churn_noise, positions[0], streams)
        return NoiseStepper(step, positions)
