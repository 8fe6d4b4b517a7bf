"""Predictor–corrector sampling of the reverse SDE."""

from __future__ import annotations

from collections.abc import Callable

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams
from isocline.samplers.langevin import LangevinCorrected
from isocline.samplers.noise_step import AbstractNoiseStep, DDIMStep, NoiseStepper
from isocline.samplers.renoise import Ancestral
from isocline.samplers.straight_path import AbstractStraightPathSampler, required
from isocline.solvers.stepper import AbstractStepper

__all__ = ["PredictorCorrectorSampler"]


class PredictorCorrectorSampler(AbstractStraightPathSampler):
    """Ancestral steps of the reverse SDE, each followed by Langevin steps at the noise level that it reached.

    n steps cost n + (n − 1)·corrections evaluations: nothing is corrected at σ = 0.

    Args:
        grid: where the steps lie.
        corrections: Langevin steps after each step.
        ratio: their signal-to-noise ratio r; the authors use 0.16 for images under VE.
        eta: noise of the predictor, see `DDIMSampler`; 1 is the reverse SDE, 0 the flow.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if a number is out of range.

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, §4.2, App. F (ancestral predictor) and G.
    """

    def __init__(
        self,
        grid: AbstractTimeGrid,
        corrections: int = 1,
        ratio: float = 0.16,
        eta: float = 1.0,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        if corrections < 0 or not 0 < ratio < 1 or not 0 <= eta <= 1:
            raise ValueError(
                f"corrections={corrections}, ratio={ratio}, eta={eta}: expected at least 0, between 0 and 1, 0 to 1"
            )
        self.corrections, self.ratio, self.eta = corrections, ratio, eta

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return n with n + (n − 1)·corrections evaluations at most."""
        return (calls + self.corrections) // (1 + self.corrections)

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return predictor and corrector; see the base class."""
        step: AbstractNoiseStep = DDIMStep()
        if len(positions) == 2 or self.corrections == self.eta == 0:
            return NoiseStepper(step, positions)
        streams = required(generator, f"corrections={self.corrections} (or eta={self.eta})")
        if self.eta > 0:
            step = Ancestral(step, self.eta, streams)
        return NoiseStepper(LangevinCorrected(step, self.corrections, self.ratio, streams), positions)
