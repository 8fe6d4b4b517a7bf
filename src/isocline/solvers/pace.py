"""One clock for the whole batch: a grid known in advance, or steps under joint control."""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractAdaptiveController, AbstractGrid
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import Status
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AbstractPace", "GridPace", "JointPace", "Verdict"]


class Verdict(NamedTuple):
    """What becomes of a trial step."""

    accept: bool
    ends: bool = False
    jumps: bool = False
    failure: Status | None = None


class AbstractPace(ABC):
    """Proposes the next step and judges it.

    Attributes:
        t0: start of the span on the CPU, float64, shape () or (B,).
        t1: its end.
    """

    t0: Tensor
    t1: Tensor

    @abstractmethod
    def begin(self, problem: AbstractProblem, stepper: AbstractStepper, carry: Any) -> int:
        """Find the first step; returns the evaluations it took."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether there is nothing to integrate."""

    @abstractmethod
    def propose(self) -> tuple[Tensor, Tensor]:
        """Start and end of the next trial step, on the state's device."""

    @abstractmethod
    def judge(self, result: StepResult, y0: Tensor) -> Verdict:
        """Accept or reject the step proposed last; accepting moves the clock."""

    @abstractmethod
    def shorten(self, end: float) -> None:
        """Let the span end within the step proposed last, which is not taken."""

    @property
    @abstractmethod
    def span(self) -> tuple[float, float]:
        """The step proposed last; not a number where samples have their own spans."""

    @property
    @abstractmethod
    def host_time(self) -> Tensor:
        """End of the step proposed last, on the CPU."""

    @abstractmethod
    def stopped(self, step: Tensor) -> Tensor:
        """Where each sample ended, float64, shape (B,), given the steps taken before its failure, -1 for none."""


class GridPace(AbstractPace):
    """Every step of a grid; none is rejected."""

    def __init__(self, controller: AbstractGrid, problem: AbstractProblem) -> None:
        """Lay out the grid on host and device."""
        self._grid = controller.times(problem)
        self._times = self._grid.to(problem.start.device).unbind(0)
        self._values = self._grid.tolist() if self._grid.ndim == 1 else None
        self.t0, self.t1 = self._grid[0], self._grid[-1]
        self._index = 0
        self._final: float | None = None

    def begin(self, problem: AbstractProblem, stepper: AbstractStepper, carry: Any) -> int:
        """Nothing to find."""
        return 0

    @property
    def empty(self) -> bool:
        """Never."""
        return False

    @property
    def start(self) -> Tensor:
        """Start of the span on the state's device."""
        return self._times[0]

    def propose(self) -> tuple[Tensor, Tensor]:
        """The next interval of the grid."""
        end = self._times[self._index + 1]
        if self._final is not None:
            end = torch.full_like(end, self._final)
        return self._times[self._index], end

    def judge(self, result: StepResult, y0: Tensor) -> Verdict:
        """Always accept."""
        self._index += 1
        return Verdict(accept=True, ends=self._final is not None or self._index == len(self._times) - 1)

    def shorten(self, end: float) -> None:
        """End within the interval that was judged last."""
        self._index -= 1
        self._final = end

    @property
    def span(self) -> tuple[float, float]:
        """Of the interval judged last."""
        if self._values is None:
            return math.nan, math.nan
        end = self._values[self._index] if self._final is None else self._final
        return self._values[self._index - 1], end

    @property
    def host_time(self) -> Tensor:
        """End of the interval judged last."""
        time = self._grid[self._index]
        return time if self._final is None else torch.full_like(time, self._final)

    def stopped(self, step: Tensor) -> Tensor:
        """The end of the step that failed, or of the span."""
        if self._final is not None:
            return torch.full(step.shape, self._final, dtype=torch.float64)
        grid = self._grid.to(step.device)
        index = torch.where(step < 0, len(grid) - 1, step + 1)
        return grid[index] if grid.ndim == 1 else grid.gather(0, index[None]).squeeze(0)


class JointPace(AbstractPace):
    """Steps whose error, in one norm over the whole batch, is held at the tolerance; arithmetic is on the host."""

    def __init__(self, controller: AbstractAdaptiveController, problem: AbstractProblem) -> None:
        """Read the span.

        Raises:
            ValueError: if samples have their own spans.
        """
        self._controller, self._device = controller, problem.start.device
        ends = []
        for name, time in (("t0", problem.t0), ("t1", problem.t1)):
            value = torch.as_tensor(time, dtype=torch.float64, device="cpu").detach()
            if value.ndim:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; joint control needs one span: joint=False")
            ends.append(value)
        self.t0, self.t1 = ends
        self._t, self._end = float(ends[0]), float(ends[1])
        self._sign = 1.0 if self._end >= self._t else -1.0
        self._jumps = self._stops(controller.jump_ts)
        self._pauses = sorted(self._stops(controller.step_ts) + self._jumps)
        self._previous, self._target = self._t, self._t
        self._time = self._tensor(self._t)
        self._size, self._tried, self._memory = 0.0, 0, (0.0, 0.0)
        self._order: int | None = None

    @property
    def start(self) -> Tensor:
        """Start of the span on the state's device."""
        return self._time

    def begin(self, problem: AbstractProblem, stepper: AbstractStepper, carry: Any) -> int:
        """Find the first step size."""
        slope = stepper.initial_slope(carry)
        with torch.no_grad():
            t1 = self._tensor(self._end)
            slope = None if slope is None else slope.detach()
            first = self._controller.initial_step(problem, stepper, self._time, t1, slope)
        self._size = float(first.size)
        assert stepper.error_order is not None
        self._order = stepper.error_order
        return first.nfe

    @property
    def empty(self) -> bool:
        """Whether the span is a point."""
        return self._t == self._end

    def propose(self) -> tuple[Tensor, Tensor]:
        """From the present time by the present step size, or to the next stop."""
        stop = self._end
        if self._pauses:
            index = bisect.bisect_right(self._pauses, self._sign * self._t)
            if index < len(self._pauses):
                stop = self._sign * min(self._pauses[index], self._sign * stop)
        # A step that all but reaches the stop reaches it: no sliver is left over, and it is hit exactly.
        reaches = self._size >= abs(stop - self._t) * (1 - 1e-10)
        self._target = stop if reaches else self._t + self._sign * self._size
        self._next_time = self._tensor(self._target)
        return self._time, self._next_time

    def judge(self, result: StepResult, y0: Tensor) -> Verdict:
        """Compare the error's norm with one."""
        control = self._controller
        assert result.error is not None
        assert self._order is not None
        with torch.no_grad():
            error, y1 = result.error, result.y1
            if y1.requires_grad:
                error, y0, y1 = error.detach(), y0.detach(), y1.detach()
            verdict = control.decide_jointly(error, y0, y1, self._memory, self._order)
            valid = result.failed is None or not bool(result.failed.any())
        accept = verdict.accept and valid
        factor = verdict.factor if valid else control.factor_min
        tried = abs(self._target - self._t)
        floor = max(4 * math.ulp(self._t), control.dt_min)
        stuck = not accept and min(tried, self._size) <= floor
        self._size = max(min(tried * factor, control.dt_max), floor)
        self._tried += 1
        if accept:
            self._memory = verdict.memory
            self._previous, self._t, self._time = self._t, self._target, self._next_time
            if self._t == self._end:
                return Verdict(accept=True, ends=True)
        if stuck:
            reason = Status.STEP_TOO_SMALL if verdict.finite else Status.NON_FINITE
            return Verdict(accept=False, failure=reason if valid else Status.STEP_FAILED)
        spent = Status.MAX_STEPS if self._tried >= control.max_steps else None
        return Verdict(accept, jumps=accept and self._sign * self._t in self._jumps, failure=spent)

    def shorten(self, end: float) -> None:
        """Step back and end there."""
        self._t, self._time = self._previous, self._tensor(self._previous)
        self._end, self._size = end, abs(end - self._t)

    @property
    def span(self) -> tuple[float, float]:
        """The step accepted last."""
        return self._previous, self._t

    @property
    def host_time(self) -> Tensor:
        """Present time."""
        return torch.tensor(self._t, dtype=torch.float64)

    def stopped(self, step: Tensor) -> Tensor:
        """The present time."""
        return torch.full(step.shape, self._t, dtype=torch.float64)

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self._device)

    def _stops(self, times: Any) -> list[float]:
        inner = [float(time) * self._sign for time in torch.as_tensor(times, dtype=torch.float64)]
        low, high = sorted((self._sign * self._t, self._sign * self._end))
        return sorted({time for time in inner if low < time < high})
