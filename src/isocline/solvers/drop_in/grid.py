"""Grids of methods with fixed steps, and states at output times between their points."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractGrid
from isocline.solvers.drop_in.errors import InvalidArgumentError
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt

__all__ = ["Constructor", "EventGrid", "LinearOutputs", "OutputGrid"]

Constructor: TypeAlias = Callable[[AbstractProblem, Tensor], Tensor]
"""From a problem and the output times to the times of its steps."""

# Share of a step below which what is left of the span is no step of its own: rounding of the number of steps.
_SLIVER = 1e-6
_EVENT_STEPS = 20_000


class OutputGrid(AbstractGrid):
    """Steps of one size, of the caller's own making, or from one output time to the next."""

    def __init__(self, step_size: float | None, constructor: Constructor | None, t: Tensor | None = None) -> None:
        """Lay out a grid, which is done when it is asked for.

        Args:
            step_size: length of every step but the last.
            constructor: the caller's.
            t: output times; None for the ends of the problem that it is asked for.
        """
        self._step, self._constructor, self._t = step_size, constructor, t
        self._grid: Tensor | None = None

    def times(self, problem: AbstractProblem) -> Tensor:
        """The grid from t0 to t1; see the base class.

        Raises:
            InvalidArgumentError: if the caller's grid does not lead from t0 to t1.
        """
        if self._t is not None:
            # The caller's function is asked once.
            self._grid = self._lay_out(problem, self._t) if self._grid is None else self._grid
            return self._grid
        ends = [torch.as_tensor(time, dtype=torch.float64).detach().cpu() for time in (problem.t0, problem.t1)]
        if any(time.ndim for time in ends):
            # Samples that are solved apart have the same span here nevertheless.
            ends = [time.reshape(-1)[0] for time in ends]
        return self._lay_out(problem, torch.stack(ends))

    def _lay_out(self, problem: AbstractProblem, t: Tensor) -> Tensor:
        if self._constructor is not None:
            return _checked(self._constructor(problem, t), t)
        exact = t.to("cpu", torch.float64)
        return exact if self._step is None else _constant_steps(float(exact[0]), float(exact[-1]), self._step)


class EventGrid(AbstractGrid):
    """Steps of one size from t0 on, as many as an event is waited for."""

    def __init__(self, start: float, step: float) -> None:
        """Lay out the grid; ``step`` is negative backward in time."""
        self._times = start + step * torch.arange(_EVENT_STEPS + 1, dtype=torch.float64)

    @property
    def end(self) -> float:
        """The last time."""
        return float(self._times[-1])

    def times(self, problem: AbstractProblem) -> Tensor:
        """The grid."""
        return self._times


class LinearOutputs:
    """States at output times by straight lines between the states at the grid's points.

    Attributes:
        saveat: the points whose states are needed; differentiable in output times that are points.
    """

    def __init__(self, grid: Sequence[float], t: Tensor) -> None:
        """Find every time's place.

        Args:
            grid: times of the steps.
            t: output times, float64; may require grad.
        """
        sign = 1.0 if grid[-1] >= grid[0] else -1.0
        keys = [sign * time for time in grid]
        lows, highs = [], []
        for time in t.detach().tolist():
            place = min(bisect.bisect_left(keys, sign * time), len(keys) - 1)
            lows.append(place if keys[place] == sign * time else place - 1)
            highs.append(place)
        self._is_exact = lows == highs
        needed = sorted({*lows, *highs})
        index = {place: number for number, place in enumerate(needed)}
        self._lows, self._highs = [index[place] for place in lows], [index[place] for place in highs]
        points = torch.tensor([grid[place] for place in needed], dtype=torch.float64)
        length = points[self._highs] - points[self._lows]
        self._share = (t.cpu() - points[self._lows]) / torch.where(length == 0, 1.0, length)
        if t.requires_grad:
            live = torch.tensor([low == high for low, high in zip(lows, highs, strict=True)])
            self._share = torch.where(live, 0.0, self._share)
            points = points.index_copy(0, torch.tensor(self._lows)[live], t.cpu()[live])
        self.saveat = SaveAt(ts=points)

    def read(self, ys: Tensor) -> Tensor:
        """From states at the points, shape (K, B, *event), to those at the output times."""
        if self._is_exact:
            return ys if len(ys) == len(self._lows) else ys[self._lows]
        low, high = ys[self._lows], ys[self._highs]
        share = self._share.to(ys.device, ys.real.dtype if ys.is_complex() else ys.dtype)
        return low + share.reshape(-1, *[1] * (ys.ndim - 1)) * (high - low)


def _constant_steps(t0: float, t1: float, step: float) -> Tensor:
    count = max(math.ceil(abs(t1 - t0) / step - _SLIVER), 1)
    grid = t0 + math.copysign(step, t1 - t0) * torch.arange(count + 1, dtype=torch.float64)
    grid[-1] = t1
    return grid


def _checked(grid: Tensor, t: Tensor) -> Tensor:
    grid = torch.as_tensor(grid).detach().cpu()
    found = grid.double()
    ends = t.detach().to(grid) if grid.is_floating_point() else t.detach().cpu().double()
    good = found.ndim == 1 and len(found) > 1 and bool(grid[0] == ends[0]) and bool(grid[-1] == ends[-1])
    if good:
        # A point that is there twice is a step of length zero, which changes nothing.
        found = torch.unique_consecutive(found)
    steps = found.diff() if good else found
    if not good or not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise InvalidArgumentError(
            f"grid_constructor returned {found.tolist()[:8]} for t from {float(t[0])} to {float(t[-1])}; return times "
            "from t[0] to t[-1], monotone"
        )
    found[0], found[-1] = t[0].double(), t[-1].double()
    return found
