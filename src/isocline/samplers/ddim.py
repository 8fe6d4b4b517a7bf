"""DDIM, deterministic or with noise between its steps."""

from __future__ import annotations

from collections.abc import Callable

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams
from isocline.samplers.noise_step import DDIMStep, NoiseStepper
from isocline.samplers.renoise import Ancestral
from isocline.samplers.straight_path import AbstractStraightPathSampler, required
from isocline.solvers.stepper import AbstractStepper

__all__ = ["DDIMSampler"]


class DDIMSampler(AbstractStraightPathSampler):
    """DDIM with its η: 0 is Euler's method for the flow, 1 DDPM's ancestral sampling.

    Args:
        grid: where the steps lie.
        eta: η, from 0 to 1.
        wrap: what is put around the denoiser first (clipping, say).

    Raises:
        ValueError: if η is out of range.

    Source: *Denoising Diffusion Implicit Models*, Song et al., 2021, Eqs. 12 and 16.
    """

    def __init__(
        self,
        grid: AbstractTimeGrid,
        eta: float = 0.0,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}; expected 0 (the flow) to 1 (ancestral sampling)")
        self.eta = eta

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return as many steps as evaluations."""
        return calls

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return DDIM's step; see the base class."""
        if self.eta == 0 or len(positions) == 2:  # A single step ends at σ = 0, where none is added.
            return NoiseStepper(DDIMStep(), positions)
        return NoiseStepper(Ancestral(DDIMStep(), self.eta, required(generator, f"eta={self.eta}")), positions)
