"""Guidance that is a rule for a whole step, since it asks at more than one place: CFG++ and Rectified-CFG++."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.prediction import DataPrediction, NoisePrediction, VelocityPrediction, convert
from isocline.processes.probability_flow import TimeVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import integrate
from isocline.shapes import expand_like
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["CFGPlusPlusSampler", "RectifiedCFGPlusPlusSampler"]

_DATA, _NOISE, _VELOCITY = DataPrediction(), NoisePrediction(), VelocityPrediction()


class _Rule(AbstractStepper):
    """One step; ``problem.cond`` is the condition, and the denoiser is asked with it and without."""

    def __init__(self, denoiser: AbstractDenoiser) -> None:
        self.denoiser = denoiser


class _PlusPlus(_Rule):
    """x_s = α_s (x_0u + λ (x_0c − x_0u)) + σ_s ε_u."""

    nfe_per_step = 2

    def __init__(self, denoiser: AbstractDenoiser, scale: float) -> None:
        super().__init__(denoiser)
        self.scale = scale

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        process = self.denoiser.process
        own, values = process.prediction, process.schedule(t0)
        free = self.denoiser.predict(t0, y0, None, own)
        bound = self.denoiser.predict(t0, y0, problem.cond, own)
        data = convert(free + self.scale * (bound - free), y0, values, own, _DATA)
        noise = convert(free, y0, values, own, _NOISE)
        return StepResult(process.mix(data, noise, process.schedule(t1)), nfe=2)


class _Rectified(_Rule):
    """Half a conditional step, then a whole one that adds the two predictions' difference at its end."""

    nfe_per_step = 3

    def __init__(self, denoiser: AbstractDenoiser, scale: float, power: float) -> None:
        super().__init__(denoiser)
        self.scale = scale
        self.power = power

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        width = expand_like((t1 - t0).to(y0.dtype), y0)
        first = self.denoiser.predict(t0, y0, problem.cond, _VELOCITY)
        middle, half = (t0 + t1) / 2, y0 + width / 2 * first
        difference = self.denoiser.predict(middle, half, problem.cond, _VELOCITY) - self.denoiser.predict(
            middle, half, None, _VELOCITY
        )
        weight = expand_like((self.scale * (1 - t0) ** self.power).to(y0.dtype), y0)
        return StepResult(y0 + width * (first + weight * difference), nfe=3)


class _RuleSampler(AbstractSampler):
    """Steps of a rule in x and t, from t_max to `end`."""

    grid: AbstractTimeGrid

    def __init__(self, grid: AbstractTimeGrid | None) -> None:
        self.grid = UniformTimeGrid() if grid is None else grid

    @abstractmethod
    def rule(self, denoiser: AbstractDenoiser) -> _Rule:
        """Return the step."""

    @abstractmethod
    def end(self, denoiser: AbstractDenoiser) -> float:
        """Return the time at which generation ends."""

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate; see the base class.

        Raises:
            ValueError: without a condition, or if the budget does not pay for one step.
        """
        if cond is None:
            raise ValueError(f"cond=None under {type(self).__name__}; pass the labels to guide towards")
        rule = self.rule(denoiser)
        cost = rule.nfe_per_step * denoiser.evaluations
        if nfe < cost:
            raise ValueError(f"nfe={nfe} does not pay for one step of {type(self).__name__}; give {cost} at least")
        times = self.grid(denoiser.process, TimeVariable(), nfe // cost)
        times[-1] = self.end(denoiser)
        return integrate(denoiser, x1, rule, TimeVariable(), times, cond, save_steps)


class CFGPlusPlusSampler(_RuleSampler):
    """DDIM that removes guided noise and adds unconditional noise again; ends at data, two evaluations a step.

    x_s = α_s x_0λ + σ_s ε_u, with x_0λ = x_0u + λ (x_0c − x_0u): the same as classifier-free guidance by DDIM with
    the scale λ r/(r − r'), r = σ/α before and r' after the step, which is λ in the last one and large at first.
    λ = 0 is unconditional DDIM; λ interpolates, and the paper uses [0, 1].

    Source: *CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models*, Chung et al., 2025,
    Algorithm 2.

    Args:
        scale: λ.
        grid: times of the steps; equidistant by default.
    """

    def __init__(self, scale: float = 0.6, grid: AbstractTimeGrid | None = None) -> None:
        super().__init__(grid)
        self.scale = scale

    def rule(self, denoiser: AbstractDenoiser) -> _Rule:
        """Return CFG++'s step."""
        return _PlusPlus(denoiser, self.scale)

    def end(self, denoiser: AbstractDenoiser) -> float:
        """Return 0."""
        return 0.0


class RectifiedCFGPlusPlusSampler(_RuleSampler):
    """A conditional half step predicts, the guided velocity corrects; ends at t_min, three evaluations a step.

    The velocity is c(x_t, t) + w(t) (c − u)(x', t'), with x' the conditional prediction at the step's middle t', and
    the weight w(t) = scale (1 − t)^power adapts: none at noise, most at data. As steps shrink it becomes
    classifier-free guidance of scale 1 + w(t).

    Source: *Rectified-CFG++ for Flow Based Models*, Saini, Gupta & Bovik, 2025, §3 (scale and power are its λ_max and
    γ). The authors' own code differs: a whole step predicts, some noise is added to it, and the weight is constant.

    Args:
        scale: largest weight.
        power: how late it is reached; 0 keeps it constant.
        grid: times of the steps; equidistant by default.

    Raises:
        ValueError: if ``power`` is negative.
    """

    def __init__(self, scale: float = 1.0, power: float = 0.5, grid: AbstractTimeGrid | None = None) -> None:
        if power < 0:
            raise ValueError(f"power = {power}: must not be negative")
        super().__init__(grid)
        self.scale = scale
        self.power = power

    def rule(self, denoiser: AbstractDenoiser) -> _Rule:
        """Return Rectified-CFG++'s step."""
        return _Rectified(denoiser, self.scale, self.power)

    def end(self, denoiser: AbstractDenoiser) -> float:
        """Return t_min."""
        return denoiser.process.t_min
