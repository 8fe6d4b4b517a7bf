"""The probability-flow ODE dx/dt = α̇ x_0 + σ̇ ε in a choice of variables.

A variable is a new state y = x/c and a new time s. All describe the same flow; they differ in what a numerical step
does exactly. Source of the ODE: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, §4.3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DifferencePrediction, NoisePrediction, VPrediction
from isocline.shapes import expand_like
from isocline.solvers.problem import VectorField

__all__ = ["AbstractVariable", "AngleVariable", "LinearPathVariable", "NoiseRatioVariable", "TimeVariable"]

_NOISE, _DIFFERENCE, _V = NoisePrediction(), DifferencePrediction(), VPrediction()


class AbstractVariable(ABC):
    """New time s(t), increasing with t, and new state y = x/c(s). Times and positions are float64."""

    @abstractmethod
    def position(self, process: GaussianProcess, t: Tensor | float) -> Tensor:
        """Return s(t)."""

    @abstractmethod
    def time(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return t(s), at least 0 (where σ(0) > 0, positions below s(0) all belong to t = 0).

        Below s(0) it is σ that goes on to 0, with α as it is at t = 0: what is left at s = 0 is data.
        """

    @abstractmethod
    def scale(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return c(s) with x = c y, shape of s."""

    @abstractmethod
    def field(self, denoiser: AbstractDenoiser) -> VectorField:
        """Return ``f(s, y, cond) = dy/ds``; one call asks the denoiser once, at a time in [t_min, t_max]."""

    @abstractmethod
    def end(self, process: GaussianProcess) -> float:
        """Return the position at which generation ends."""

    def start(self, process: GaussianProcess) -> float:
        """Return the position s(t_max) from which generation starts."""
        return float(self.position(process, process.t_max))

    def to_state(self, process: GaussianProcess, s: Tensor, y: Tensor) -> Tensor:
        """Return x for y ``(B, *event)`` at positions ``()`` or ``(B,)``."""
        return y * expand_like(self.scale(process, s).to(y.dtype), y)

    def from_state(self, process: GaussianProcess, s: Tensor, x: Tensor) -> Tensor:
        """Return y for x ``(B, *event)`` at positions ``()`` or ``(B,)``."""
        return x / expand_like(self.scale(process, s).to(x.dtype), x)


class TimeVariable(AbstractVariable):
    """y = x, s = t; the field is the velocity.

    Generation ends at the process's t_min, without a further step: with t_min = 0 (velocity or v predictions) that
    is data, otherwise noise of standard deviation σ(t_min) remains.
    """

    def position(self, process: GaussianProcess, t: Tensor | float) -> Tensor:
        """Return t."""
        return torch.as_tensor(t, dtype=torch.float64)

    def time(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return s."""
        return s

    def scale(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(s)

    def field(self, denoiser: AbstractDenoiser) -> VectorField:
        """Return the velocity α̇ x_0 + σ̇ ε."""
        return denoiser.velocity

    def end(self, process: GaussianProcess) -> float:
        """Return t_min."""
        return process.t_min

    def to_state(self, process: GaussianProcess, s: Tensor, y: Tensor) -> Tensor:
        """Return y."""
        return y

    def from_state(self, process: GaussianProcess, s: Tensor, x: Tensor) -> Tensor:
        """Return x."""
        return x


class NoiseRatioVariable(AbstractVariable):
    """y = x/α, s = σ/α; the field is the predicted noise: dy/ds = ε.

    An Euler step is DDIM's: y' = y + (s' − s) ε. Generation ends at s = 0, hence exactly at data with no division by
    σ; EDM's and VE's last step leaves their σ(0) for 0 in the same way. Where a stage falls below t_min (Heun's last
    one) the network is asked at t_min.

    Source: *Denoising Diffusion Implicit Models*, Song et al., 2021, Eq. 14.
    """

    def position(self, process: GaussianProcess, t: Tensor | float) -> Tensor:
        """Return σ/α.

        Raises:
            ValueError: where α(t) = 0, since s is infinite there.
        """
        values = process.schedule(t)
        if bool((values.alpha <= 0).any()):
            raise ValueError(
                f"variable=NoiseRatioVariable needs α(t) > 0, but {type(process.schedule).__name__} has α = 0 at "
                f"t = {t}; use LinearPathVariable or TimeVariable, or a process with t_max < 1"
            )
        return values.sigma / values.alpha

    def time(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return the time at which σ/α = s."""
        return process.schedule.inverse_log_ratio(-s.log()).clamp(min=0.0)

    def scale(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return α."""
        return process.schedule(self.time(process, s)).alpha

    def field(self, denoiser: AbstractDenoiser) -> VectorField:
        """Return the predicted noise at x = α y."""
        process = denoiser.process

        def noise(s: Tensor, y: Tensor, cond: Any) -> Tensor:
            t = self.time(process, s).clamp(process.t_min, process.t_max)
            alpha = process.schedule(t).alpha
            return denoiser.predict(t, y * expand_like(alpha.to(y.dtype), y), cond, _NOISE)

        return noise

    def end(self, process: GaussianProcess) -> float:
        """Return 0."""
        return 0.0


class LinearPathVariable(AbstractVariable):
    """y = x/(α + σ), s = σ/(α + σ), so that y = (1 − s) x_0 + s ε: every process as the linear path.

    The field ε − x_0 is finite at both ends, s runs from at most 1 (α = 0) to exactly 0 (data), and an Euler step is
    DDIM's. On the linear path it is `TimeVariable`. Where a stage falls below t_min the network is asked at t_min.

    Source: the straight path of *Flow Matching for Generative Modeling*, Lipman et al., 2023; that all Gaussian paths
    differ by scale and time alone, *Elucidating the Design Space*, Karras et al., 2022, App. B.
    """

    def position(self, process: GaussianProcess, t: Tensor | float) -> Tensor:
        """Return σ/(α + σ)."""
        values = process.schedule(t)
        return values.sigma / (values.alpha + values.sigma)

    def time(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return the time at which σ/(α + σ) = s."""
        return process.schedule.inverse_log_ratio(torch.log1p(-s) - s.log()).clamp(min=0.0)

    def scale(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return α + σ."""
        return self._scale(process, s, self.time(process, s), 0.0)

    @staticmethod
    def _scale(process: GaussianProcess, s: Tensor, t: Tensor, lowest: float) -> Tensor:
        """α + σ with σ/α as s has it: α/(1 − s) where t stopped at its lowest value."""
        values = process.schedule(t)
        return torch.where(t > lowest, values.alpha + values.sigma, values.alpha / (1.0 - s))

    def field(self, denoiser: AbstractDenoiser) -> VectorField:
        """Return ε − x_0 at x = (α + σ) y."""
        process = denoiser.process

        def difference(s: Tensor, y: Tensor, cond: Any) -> Tensor:
            t, x = self.question(process, s, y)
            return denoiser.predict(t, x, cond, _DIFFERENCE)

        return difference

    def question(self, process: GaussianProcess, s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the time in [t_min, t_max] and the state at which a denoiser is asked for y ``(B, *event)``."""
        t = self.time(process, s).clamp(process.t_min, process.t_max)
        return t, y * expand_like(self._scale(process, s, t, process.t_min).to(y.dtype), y)

    def end(self, process: GaussianProcess) -> float:
        """Return 0."""
        return 0.0


class AngleVariable(AbstractVariable):
    """y = x/r with r = √(α² + σ²), s = φ = arctan(σ/α); the field is v/r, finite at both ends.

    On variance-preserving processes r = 1 and the field is the v-prediction, so that generation may run from α = 0 to
    σ = 0 exactly. An Euler step is not DDIM's here. Where a stage falls below t_min the network is asked at t_min.

    Source: *Progressive Distillation for Fast Sampling of Diffusion Models*, Salimans & Ho, 2022, App. D.
    """

    def position(self, process: GaussianProcess, t: Tensor | float) -> Tensor:
        """Return φ in [0, π/2]."""
        values = process.schedule(t)
        return torch.atan2(values.sigma, values.alpha)

    def time(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return the time at which arctan(σ/α) = s."""
        # tan of the complement, not of s: accurate next to π/2, where α vanishes.
        return process.schedule.inverse_log_ratio(torch.tan(math.pi / 2 - s).log()).clamp(min=0.0)

    def scale(self, process: GaussianProcess, s: Tensor) -> Tensor:
        """Return r."""
        return self._scale(process, s, self.time(process, s), 0.0)

    @staticmethod
    def _scale(process: GaussianProcess, s: Tensor, t: Tensor, lowest: float) -> Tensor:
        """The radius with σ/α as s has it: α/cos s where t stopped at its lowest value."""
        values = process.schedule(t)
        return torch.where(t > lowest, torch.hypot(values.alpha, values.sigma), values.alpha / s.cos())

    def field(self, denoiser: AbstractDenoiser) -> VectorField:
        """Return v/r at x = r y."""
        process = denoiser.process

        def turn(s: Tensor, y: Tensor, cond: Any) -> Tensor:
            t = self.time(process, s).clamp(process.t_min, process.t_max)
            radius = expand_like(self._scale(process, s, t, process.t_min).to(y.dtype), y)
            return denoiser.predict(t, y * radius, cond, _V) / radius

        return turn

    def end(self, process: GaussianProcess) -> float:
        """Return 0."""
        return 0.0
