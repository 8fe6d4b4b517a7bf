"""Step sizes: a grid known in advance, or a PID controller that holds each sample's local error at its tolerance."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.kept import kept, ones
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
    "JointDecision",
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
        """Equidistant times whose ends are exactly the problem's.

        Raises:
            ValueError: if there are neither one time nor one for each sample.
        """
        t0, t1 = _host(problem.t0), _host(problem.t1)
        for name, time in (("t0", t0), ("t1", t1)):
            if time.ndim and time.shape not in ((1,), (len(problem.start),)):
                raise ValueError(
                    f"{name} has shape {tuple(time.shape)}; expected a float or ({len(problem.start)},), one per sample"
                )
        share = torch.linspace(0, 1, self._n + 1, dtype=torch.float64)
        if t0.ndim or t1.ndim:
            share = share[:, None]
        # The convex combination hits both ends exactly, which t0 + i*h does not.
        return (1 - share) * t0 + share * t1


@dataclass(frozen=True, slots=True)
class InitialStep:
    """The first trial step.

    Attributes:
        size: unsigned, float64, shape (B,), or () under joint control.
        nfe: evaluations it took to find, for every sample.
    """

    size: Tensor
    nfe: int


class Decision(NamedTuple):
    """Verdict on a trial step, per sample.

    Attributes:
        accept: bool, shape (B,); False where the trial state or its error is not finite.
        factor: by which to multiply the step, float64, shape (B,).
        memory: the controller's state if the step is accepted.
        log_norm: logarithm of the error's norm up to a constant, float64, shape (B,).
    """

    accept: Tensor
    factor: Tensor
    memory: Tensor | None
    log_norm: Tensor

    @property
    def finite(self) -> Tensor:
        """Whether the trial state and its error were finite, bool, shape (B,)."""
        return self.log_norm < math.inf


@dataclass(frozen=True, slots=True)
class JointDecision:
    """Verdict on a trial step of the whole batch; see `Decision`."""

    accept: bool
    factor: float
    memory: tuple[float, float]
    finite: bool


class AbstractAdaptiveController(AbstractController):
    """Chooses steps from error estimates, for each sample its own or for all together.

    Attributes:
        joint: one norm and one step size for the whole batch.
        dt_min: smallest step tried, except for the last one.
        dt_max: largest step.
        max_steps: trial steps that one sample may use.
        factor_min: by which a step is multiplied that the stepper declared invalid.
        step_ts: times at which a step has to end.
        jump_ts: times at which a step has to end, because the field jumps there.
    """

    joint: bool
    factor_min: float
    dt_min: float
    dt_max: float
    max_steps: int
    step_ts: Sequence[float] | Tensor
    jump_ts: Sequence[float] | Tensor

    @abstractmethod
    def initial_step(
        self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, t1: Tensor, slope: Tensor | None
    ) -> InitialStep:
        """Find the first step; ``slope`` is the slope at the start where the stepper has it already."""

    @abstractmethod
    def initial_memory(self, t0: Tensor) -> Tensor | None:
        """The state before the first step; leads with B."""

    @abstractmethod
    def decide(
        self, error: Tensor, y0: Tensor, y1: Tensor, memory: Tensor | None, error_order: int | Tensor
    ) -> Decision:
        """Judge a trial step of every sample."""

    @abstractmethod
    def decide_jointly(
        self, error: Tensor, y0: Tensor, y1: Tensor, memory: tuple[float, float], error_order: int
    ) -> JointDecision:
        """Judge a trial step of the whole batch."""


_SMALLEST = -0.5 * math.log(1e24)
_REAL = (torch.float32, torch.float64)


def root_mean_square(scaled: Tensor) -> Tensor:
    """``sqrt(mean(|e|²))`` over the event axes, float64, shape (B,)."""
    size = scaled.abs() if scaled.is_complex() else scaled
    flat = size.double().reshape(scaled.shape[0], -1)
    if flat.shape[1] == 2 and not torch.compiler.is_compiling():
        # A sum of two is the same in any order, so that a product may make it, in half the time or less.
        return torch.mv(flat * flat, ones(2, flat.dtype, flat.device)).mul_(0.5).sqrt_()
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1] or 1)


def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    if torch.compiler.is_compiling():
        return torch.full((), value, dtype=dtype, device=device)
    return _stored_constant(value, dtype, device)


@kept(maxsize=1024)
def _stored_constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class PIDController(AbstractAdaptiveController):
    """Holds the weighted root-mean-square error of every sample's steps at one.

    With ``r_n = 1 / ‖error / (atol + rtol max(|y0|, |y1|))‖`` and k the order of the error estimate, the next step is
    ``h · safety · r_n^((p+i+d)/k) · r_{n-1}^(-(p+2d)/k) · r_{n-2}^(d/k)``, within ``[factor_min, factor_max]``; after
    a rejection only the first factor counts. The default is the elementary (integral) controller; ``pcoeff=0.3,
    icoeff=0.4`` is the PI controller for problems at the edge of stability. Not differentiated: gradients pass
    through the states at fixed step sizes.

    Source: Söderlind, Digital filters in adaptive time-stepping (2003), section 3; Hairer, Nørsett, Wanner I, section
    II.4 (norm and initial step).

    Attributes:
        rtol: relative tolerance.
        atol: absolute tolerance; a tensor that broadcasts against ``*event`` gives each component its own.
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
        norm: scaled error (B, *event) → (B,) in float64; under joint control → ().
        joint: one norm over the whole batch and one step size for all: for homogeneous batches, and where the batch is
            one system. One hard sample among many easy ones is hidden by the mean.
        step_ts: times at which a step has to end.
        jump_ts: likewise, where the field jumps: it is asked just before, and again just after, in either direction of
            time and whatever it returns at the jump itself.

    Raises:
        ValueError: if a value is out of range.
    """

    rtol: float = 1e-5
    atol: float | Tensor = 1e-7
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
    joint: bool = False
    step_ts: Sequence[float] | Tensor = ()
    jump_ts: Sequence[float] | Tensor = ()

    def __post_init__(self) -> None:
        if isinstance(self.atol, Tensor) and self.atol.requires_grad:
            # What a step is judged by is constant to the gradient.
            object.__setattr__(self, "atol", self.atol.detach())
        smallest = float(self.atol.min()) if isinstance(self.atol, Tensor) else self.atol
        in_range = {
            "rtol": self.rtol >= 0,
            "atol": smallest >= 0 and self.rtol + smallest > 0,
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
        """Step for which an explicit Euler step would be accurate: Hairer, Nørsett, Wanner I, section II.4.

        Raises:
            ValueError: if ``atol`` does not fit the state.
        """
        span, y0 = t1 - t0, problem.start
        if isinstance(self.atol, Tensor) and self.atol.ndim and not _broadcasts(self.atol, y0):
            raise ValueError(
                f"atol has shape {tuple(self.atol.shape)}, the state of a sample {tuple(y0.shape[1:])}; give one "
                "number, or one for each component"
            )
        bound = span.abs().clamp_(max=self.dt_max)
        if self.dt0 is not None:
            return InitialStep(bound.clamp_(max=self.dt0), 0)
        nfe = 1 if slope is not None else 2
        slope = problem.evaluate(t0, y0) if slope is None else slope
        scale = self._scale(y0.abs())
        d0, d1 = self._norm(y0 / scale), self._norm(slope / scale)
        h0 = torch.where(torch.minimum(d0, d1) < 1e-5, 1e-6, torch.mul(d0, 0.01).div_(d1))
        h0 = h0.nan_to_num_(nan=1e-6, posinf=1e-6).minimum(bound)
        signed = torch.copysign(h0, span)
        trial = torch.addcmul(y0, expand_like(signed, y0).to(y0.dtype), slope)
        d2 = self._norm((problem.evaluate(t0 + signed, trial) - slope).div_(scale)) / h0
        worst = d1.maximum(d2)
        # exp(log) rather than pow: pow rounds differently in and out of a vector register, that is, by batch size.
        root = torch.log(0.01 / worst).div_(stepper.order + 1).exp_()
        h1 = torch.where(worst <= 1e-15, (h0 * 1e-3).clamp_(min=1e-6), root)
        step = torch.minimum(100 * h0, h1)
        step = torch.where(step < math.inf, step, h0).minimum(bound)
        return InitialStep(step if self.dt_min == 0 else step.clamp_(min=self.dt_min).minimum(bound), nfe)

    def initial_memory(self, t0: Tensor) -> Tensor | None:
        """Logarithms of r at the two steps before, zero at the start, shape (B, 2); None where they do not count."""
        if self.pcoeff == 0 == self.dcoeff:
            return None
        return torch.zeros(t0.shape[0], 2, dtype=torch.float64, device=t0.device)

    def decide(
        self, error: Tensor, y0: Tensor, y1: Tensor, memory: Tensor | None, error_order: int | Tensor
    ) -> Decision:
        """Accept where the norm is at most one and the state finite."""
        norm, unit, power = self._error_norm(error, y0, y1)
        accept, log_norm = norm <= unit, norm.log()
        p, i, d, shift = self.pcoeff, self.icoeff, self.dcoeff, math.log(unit) / power
        if memory is None and isinstance(error_order, int):
            gain = i / error_order
            level = _constant(math.log(self.safety) + gain * shift, norm.dtype, norm.device)
            exponent = torch.add(level, log_norm, alpha=-gain / power)
        else:
            log_r = shift - (log_norm / power).clamp(min=shift + _SMALLEST)
            exponent = (p + i + d) * log_r
            if memory is not None:
                # What was measured before a rejection says nothing about the smaller step.
                past = d * memory[:, 1] - (p + 2 * d) * memory[:, 0]
                exponent = torch.where(accept, exponent + past, exponent)
                memory = torch.stack([log_r, memory[:, 0]], 1)
            exponent = exponent / error_order + math.log(self.safety)
        smallest, largest = math.log(self.factor_min), math.log(self.factor_max)
        factor = exponent.clamp_(smallest, largest).exp_().nan_to_num_(nan=self.factor_min)
        return Decision(accept, factor, memory, log_norm)

    def decide_jointly(
        self, error: Tensor, y0: Tensor, y1: Tensor, memory: tuple[float, float], error_order: int
    ) -> JointDecision:
        """Accept if the norm over the whole batch is at most one."""
        square = self._joint_mean_square(error, y0, y1)
        if not math.isfinite(square):
            return JointDecision(False, self.factor_min, memory, False)
        accept = square <= 1
        log_r = -0.5 * math.log(max(square, 1e-24))
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        exponent = (p + i + d) * log_r
        if accept:
            exponent += -(p + 2 * d) * memory[0] + d * memory[1]
        factor = self.safety * math.exp(exponent / error_order)
        return JointDecision(
            accept, min(max(factor, self.factor_min), self.factor_max), (log_r, memory[0]), finite=True
        )

    def _scale(self, size: Tensor) -> Tensor:
        return size.mul(self.rtol).add_(self.atol)

    def _norm(self, scaled: Tensor) -> Tensor:
        if not self.joint or self.norm is not root_mean_square:
            return self.norm(scaled).double()
        return scaled.abs().double().square().mean().sqrt()

    def _scaled(self, error: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """Error in units of the tolerance, not finite where the state is not."""
        size = torch.maximum(y0.abs(), y1.abs())
        atol = self.atol if isinstance(self.atol, Tensor) else _constant(self.atol, size.dtype, size.device)
        scale = torch.add(atol, size, alpha=self.rtol)
        if error.is_complex():
            error = error.abs()
        # 0 · inf: an infinite state is no small error.
        return torch.div(error, scale).add_(scale, alpha=0.0)

    def _error_norm(self, error: Tensor, y0: Tensor, y1: Tensor) -> tuple[Tensor, float, int]:
        """A power of the norm of every sample's error, float64, shape (B,); what it is at the tolerance; the power."""
        ratio = self._scaled(error, y0, y1)
        if self.norm is root_mean_square:
            flat = ratio if ratio.ndim == 2 else ratio.reshape(len(ratio), -1)
            if flat.shape[1] == 2 and flat.dtype in _REAL and not torch.compiler.is_compiling():
                norm, unit, power = torch.mv(flat * flat, ones(2, flat.dtype, flat.device)), 2.0, 2
            else:
                # Each row is summed in the same order whatever the batch.
                norm, unit, power = torch.linalg.vector_norm(flat, dim=1), math.sqrt(flat.shape[1] or 1), 1
            return norm if norm.dtype == torch.float64 else norm.double(), unit, power
        finite = ratio.reshape(len(ratio), -1).isfinite().all(1)
        return torch.where(finite, self.norm(ratio).double(), math.nan), 1.0, 1

    def _joint_mean_square(self, error: Tensor, y0: Tensor, y1: Tensor) -> float:
        ratio = self._scaled(error, y0, y1)
        if self.norm is not root_mean_square:
            return float(self.norm(ratio).square())
        flat = ratio.reshape(-1)
        return float(torch.dot(flat, flat)) / (flat.numel() or 1)


def _host(time: Time) -> Tensor:
    return torch.as_tensor(time, dtype=torch.float64, device="cpu").detach()


def _broadcasts(atol: Tensor, y0: Tensor) -> bool:
    """Whether every sample can have the same tolerances, one for each component."""
    own = (1,) * (y0.ndim - atol.ndim) + tuple(atol.shape)
    return atol.ndim <= y0.ndim and all(size in (1, whole) for size, whole in zip(own, y0.shape, strict=True))
