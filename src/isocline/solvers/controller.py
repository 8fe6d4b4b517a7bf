"""Step sizes: a grid known in advance, or a PID controller that holds each sample's local error at its tolerance."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.problem import AbstractProblem, Time
from isocline.solvers.stepper import AbstractStepper

__all__ = [
    "AbstractAdaptiveController",
    "AbstractController",
    "AbstractGrid",
    "ConstantSteps",
    "Decision",
    "FixedGrid",
    "InitialStep",
    "PIDController",
    "root_mean_square",
]


class AbstractController(ABC):  # noqa: B024 - a marker: its two kinds share no method
    """Chooses the steps; either an `AbstractGrid` or an `AbstractAdaptiveController`."""


class AbstractGrid(AbstractController):
    """Steps that are known before the first evaluation, so that the loop never waits for the device."""

    @abstractmethod
    def times(self, problem: AbstractProblem) -> Tensor:
        """The grid from t0 to t1, float64 on the CPU, shape (N+1,), or (N+1, B) where samples have their own spans."""


class FixedGrid(AbstractGrid):
    """The times given, in order.

    Args:
        times: N+1 strictly increasing or strictly decreasing times; converted to float64.

    Raises:
        ValueError: if there are fewer than two times, or they are not strictly monotone and finite; on solving, if the
            ends are not the problem's.
    """

    def __init__(self, times: Tensor | Sequence[float]) -> None:
        grid = torch.as_tensor(times, dtype=torch.float64, device="cpu").detach()
        if grid.ndim != 1 or grid.numel() < 2:
            raise ValueError(f"times has shape {tuple(grid.shape)}; expected at least two times in one dimension")
        steps = grid.diff()
        if not (bool((steps > 0).all()) or bool((steps < 0).all())) or not bool(grid.isfinite().all()):
            raise ValueError(f"times={grid.tolist()} is not strictly monotone; sort it and drop repeated times")
        self._grid = grid

    def times(self, problem: AbstractProblem) -> Tensor:
        """The grid itself, once its ends have been compared with the problem's."""
        for name, end, found in (("t0", problem.t0, self._grid[0]), ("t1", problem.t1, self._grid[-1])):
            wanted = torch.as_tensor(end, dtype=torch.float64, device="cpu")
            if not bool(torch.isclose(wanted, found, rtol=1e-9, atol=1e-12).all()):
                raise ValueError(f"the grid's end {float(found)} is not the problem's {name}={end}; make them equal")
        return self._grid


class ConstantSteps(AbstractGrid):
    """``n`` steps of equal length.

    Args:
        n: number of steps.

    Raises:
        ValueError: if ``n`` is below one.
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ValueError(f"n={n}; expected at least one step")
        self._n = n

    def times(self, problem: AbstractProblem) -> Tensor:
        """Equidistant times whose ends are exactly the problem's."""
        t0, t1 = _host(problem.t0), _host(problem.t1)
        share = torch.linspace(0, 1, self._n + 1, dtype=torch.float64)
        if t0.ndim or t1.ndim:
            share = share[:, None]
        # The convex combination hits both ends exactly, which t0 + i*h does not.
        return (1 - share) * t0 + share * t1


@dataclass(frozen=True, slots=True)
class InitialStep:
    """The first trial step.

    Attributes:
        dt: signed, float64, shape (B,).
        nfe: evaluations it took to find, for every sample.
    """

    dt: Tensor
    nfe: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Verdict on a trial step, per sample.

    Attributes:
        accept: bool, shape (B,).
        finite: bool, shape (B,): the trial state and its error were finite.
        factor: by which to multiply the step, float64, shape (B,).
        memory: the controller's state if the step is accepted.
    """

    accept: Tensor
    finite: Tensor
    factor: Tensor
    memory: Tensor


class AbstractAdaptiveController(AbstractController):
    """Chooses each sample's steps from its error estimates.

    Attributes:
        dt_min: smallest step tried, except for the last one.
        dt_max: largest step.
        max_steps: trial steps that one sample may use.
    """

    dt_min: float
    dt_max: float
    max_steps: int

    @abstractmethod
    def initial_step(
        self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, t1: Tensor, slope: Tensor | None
    ) -> InitialStep:
        """Find the first step; ``slope`` is the slope at the start where the stepper has it already."""

    @abstractmethod
    def initial_memory(self, t0: Tensor) -> Tensor:
        """The state before the first step; leads with B."""

    @abstractmethod
    def decide(self, error: Tensor, y0: Tensor, y1: Tensor, memory: Tensor, error_order: int) -> Decision:
        """Judge a trial step of every sample."""


def root_mean_square(scaled: Tensor) -> Tensor:
    """``sqrt(mean(|e|²))`` over the event axes, float64, shape (B,)."""
    flat = scaled.reshape(scaled.shape[0], -1)
    return flat.abs().double().square().mean(1).sqrt()


@dataclass(frozen=True)
class PIDController(AbstractAdaptiveController):
    """Holds the weighted root-mean-square error of every sample's steps at one.

    With ``r_n = 1 / ‖error / (atol + rtol max(|y0|, |y1|))‖`` and k the order of the error estimate, the next step is
    ``h · safety · r_n^((p+i+d)/k) · r_{n-1}^(-(p+2d)/k) · r_{n-2}^(d/k)``, within ``[factor_min, factor_max]``. The
    default is the elementary (integral) controller; ``pcoeff=0.3, icoeff=0.4`` is the PI controller for problems at
    the edge of stability. Not differentiated: gradients pass through the states at fixed step sizes.

    Source: Söderlind, Digital filters in adaptive time-stepping (2003), section 3; Hairer, Nørsett, Wanner I, section
    II.4 (norm and initial step).

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance.
        pcoeff: proportional coefficient.
        icoeff: integral coefficient.
        dcoeff: derivative coefficient.
        safety: share of the predicted step that is taken.
        factor_min: strongest reduction; also used after a trial step that was not finite.
        factor_max: strongest growth.
        dt0: first step (unsigned); None finds one with one or two evaluations.
        dt_min: a sample whose step of this size is rejected fails; at least a few units of rounding of t.
        dt_max: largest step.
        max_steps: trial steps that one sample may use.
        norm: scaled error (B, *event) → (B,) in float64.

    Raises:
        ValueError: if a value is out of range.
    """

    rtol: float = 1e-5
    atol: float = 1e-7
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    dt0: float | None = None
    dt_min: float = 0.0
    dt_max: float = float("inf")
    max_steps: int = 10_000
    norm: Callable[[Tensor], Tensor] = dataclasses.field(default=root_mean_square, repr=False)

    def __post_init__(self) -> None:
        in_range = {
            "rtol": self.rtol >= 0,
            "atol": self.atol >= 0 and self.rtol + self.atol > 0,
            "safety": 0 < self.safety <= 1,
            "factor_min": 0 < self.factor_min < 1,
            "factor_max": self.factor_max > 1,
            "dt0": self.dt0 is None or self.dt0 > 0,
            "dt_min": self.dt_min >= 0,
            "dt_max": self.dt_max > self.dt_min,
            "max_steps": self.max_steps >= 1,
        }
        for key, ok in in_range.items():
            if not ok:
                raise ValueError(f"{key}={getattr(self, key)} is out of range; see PIDController's docstring")

    def initial_step(
        self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, t1: Tensor, slope: Tensor | None
    ) -> InitialStep:
        """Step for which an explicit Euler step would be accurate: Hairer, Nørsett, Wanner I, section II.4."""
        span, y0 = t1 - t0, problem.start
        bound = span.abs().clamp(max=self.dt_max)
        if self.dt0 is not None:
            return InitialStep(span.sign() * bound.clamp(max=self.dt0), 0)
        nfe = 1 if slope is not None else 2
        slope = problem.evaluate(t0, y0) if slope is None else slope
        scale = self.atol + self.rtol * y0.abs()
        d0, d1 = self.norm(y0 / scale), self.norm(slope / scale)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = torch.where(h0.isfinite(), h0, 1e-6).minimum(bound)
        signed = h0 * span.sign()
        trial = y0 + expand_like(signed, y0).to(y0.dtype) * slope
        d2 = self.norm((problem.evaluate(t0 + signed, trial) - slope) / scale) / h0
        worst = d1.maximum(d2)
        # exp(log) rather than pow: pow rounds differently in and out of a vector register, that is, by batch size.
        root = torch.exp(torch.log(0.01 / worst) / (stepper.order + 1))
        h1 = torch.where(worst <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), root)
        step = torch.minimum(100 * h0, h1)
        step = torch.where(step.isfinite(), step, h0).minimum(bound)
        return InitialStep(span.sign() * step.clamp(min=self.dt_min).minimum(bound), nfe)

    def initial_memory(self, t0: Tensor) -> Tensor:
        """Logarithms of r at the two steps before, zero at the start, shape (B, 2)."""
        return torch.zeros(t0.shape[0], 2, dtype=torch.float64, device=t0.device)

    def decide(self, error: Tensor, y0: Tensor, y1: Tensor, memory: Tensor, error_order: int) -> Decision:
        """Accept where the norm is at most one and the state finite."""
        scale = self.atol + self.rtol * torch.maximum(y0.abs(), y1.abs())
        norm = self.norm(error / scale)
        finite = norm.isfinite() & y1.isfinite().reshape(len(y1), -1).all(1)
        accept = finite & (norm <= 1)
        log_r = -torch.log(norm.clamp(min=1e-12))
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        exponent = ((p + i + d) * log_r - (p + 2 * d) * memory[:, 0] + d * memory[:, 1]) / error_order
        factor = (self.safety * exponent.exp()).clamp(self.factor_min, self.factor_max)
        factor = torch.where(accept, factor, factor.clamp(max=self.safety))
        factor = torch.where(finite, factor, self.factor_min)
        return Decision(accept, finite, factor, torch.stack([log_r, memory[:, 0]], 1))


def _host(time: Time) -> Tensor:
    return torch.as_tensor(time, dtype=torch.float64, device="cpu").detach()
