"""Which states a solve keeps: recorders for a shared grid and for samples that each have their own steps."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.solvers.solution import SaveAt
from isocline.solvers.stepper import StepResult

__all__ = ["GridRecorder", "SampleRecorder"]


class GridRecorder:
    """Keeps states on a grid; everything about times is decided on the host before the first step."""

    def __init__(self, saveat: SaveAt, grid: Tensor) -> None:
        """Plan the saves.

        Args:
            saveat: what is wanted.
            grid: the grid on the CPU, shape (N+1,) or (N+1, B).

        Raises:
            ValueError: if a save time lies outside the span, or times are asked for where samples have their own grids.
        """
        self._points: dict[int, list[int]] = {}
        self._inner: dict[int, list[tuple[int, float]]] = {}
        last = len(grid) - 1
        if saveat.steps:
            self.ts = grid
            self._points = {index: [index] for index in range(last + 1)}
        elif saveat.ts is None:
            self.ts = grid[-1:]
            self._points = {last: [0]}
        else:
            self.ts = saveat.times
            self._plan(grid)
        self._saved: list[Tensor | None] = [None] * len(self.ts)

    def _plan(self, grid: Tensor) -> None:
        if grid.ndim > 1:
            raise ValueError("SaveAt.ts needs one grid for all samples; use SaveAt(steps=True), or scalar t0 and t1")
        _check_span(self.ts, grid[:1], grid[-1:])
        sign = 1.0 if grid[-1] > grid[0] else -1.0
        after = torch.searchsorted(sign * grid, sign * self.ts).tolist()
        for save, index in enumerate(after):
            if grid[index] == self.ts[save]:
                self._points.setdefault(index, []).append(save)
            else:
                share = (self.ts[save] - grid[index - 1]) / (grid[index] - grid[index - 1])
                self._inner.setdefault(index, []).append((save, float(share)))

    def point(self, index: int, y: Tensor) -> None:
        """Offer the state at grid point ``index``."""
        for save in self._points.get(index, ()):
            self._saved[save] = y

    def step(self, index: int, result: StepResult) -> int:
        """Offer the step that ends at grid point ``index``; returns the evaluations that its dense output cost.

        Raises:
            ValueError: if a save time lies within the step and the stepper has no dense output.
        """
        wanted = self._inner.get(index)
        if not wanted:
            return 0
        if result.dense is None:
            time = float(self.ts[wanted[0][0]])
            raise ValueError(
                f"SaveAt.ts has {time}, within a step of a stepper without dense output; put it on the grid"
            )
        for save, share in wanted:
            theta = torch.full((), share, dtype=torch.float64, device=result.y1.device)
            self._saved[save] = result.dense.evaluate(theta)
        return result.dense.nfe

    def states(self) -> Tensor:
        """Saved states, shape (K, B, *event)."""
        return torch.stack([state for state in self._saved if state is not None])


class SampleRecorder:
    """Keeps states of samples that reach the save times at different steps."""

    def __init__(self, saveat: SaveAt, t0: Tensor, t1: Tensor, y0: Tensor) -> None:
        """Save what is wanted at the start.

        Args:
            saveat: what is wanted.
            t0: start of each sample, shape (B,).
            t1: end of each sample, shape (B,).
            y0: start, shape (B, *event).

        Raises:
            ValueError: if a save time lies outside a sample's span, or steps are asked for.
        """
        if saveat.steps:
            raise ValueError("SaveAt(steps=True) needs a fixed grid: adaptive samples differ in their steps; give ts")
        self._template = y0
        self._places: list[Tensor] = []
        self._values: list[Tensor] = []
        self._sign = (t1 - t0).sign()
        self._ts: Tensor | None = None
        if saveat.ts is not None:
            ts = saveat.times.to(t0.device)
            _check_span(ts, t0, t1)
            self._ts = ts
            save, sample = torch.nonzero(ts[:, None] == t0, as_tuple=True)
            self._keep(save, sample, y0[sample])

    def step(self, rows: Tensor, t0: Tensor, t1: Tensor, accept: Tensor, result: StepResult) -> Tensor | None:
        """Offer a step of the samples ``rows``; returns which of them dense output cost evaluations (counts), or None.

        Raises:
            ValueError: if a save time lies within the step and the stepper has no dense output.
        """
        if self._ts is None:
            return None
        sign, ts = self._sign[rows], self._ts[:, None]
        hit = accept & (sign * (ts - t0) > 0) & (sign * (t1 - ts) >= 0)
        save, local = torch.nonzero(hit, as_tuple=True)
        if not len(save):
            return None
        start, end = t0[local], t1[local]
        theta = (self._ts[save] - start) / (end - start)
        at_end = theta == 1
        cost = None
        if bool(at_end.all()):
            values = result.y1[local]
        elif result.dense is None:
            raise ValueError("SaveAt.ts has a time within a step of a stepper without dense output; use a fixed grid")
        else:
            values = result.dense.evaluate(theta, local)
            mask = at_end.reshape(-1, *([1] * (values.ndim - 1)))
            values = torch.where(mask, result.y1[local], values)
            cost = result.dense.nfe * (hit & (ts != t1)).any(0).long()
        self._keep(save, rows[local], values)
        return cost

    def end(self, rows: Tensor, y: Tensor) -> None:
        """Offer the end states of the samples ``rows``."""
        if self._ts is None:
            self._keep(torch.zeros_like(rows), rows, y)

    def _keep(self, save: Tensor, sample: Tensor, values: Tensor) -> None:
        self._places.append(save * len(self._template) + sample)
        self._values.append(values)

    def states(self) -> Tensor:
        """Saved states, shape (K, B, *event), NaN where a sample did not get."""
        count = 1 if self._ts is None else len(self._ts)
        shape = self._template.shape
        empty = self._template.new_full((count * shape[0], *shape[1:]), float("nan"))
        if not self._places:
            return empty.reshape(count, *shape)
        return empty.index_copy(0, torch.cat(self._places), torch.cat(self._values)).reshape(count, *shape)


def _check_span(ts: Tensor, t0: Tensor, t1: Tensor) -> None:
    inside = (ts[:, None] >= torch.minimum(t0, t1)) & (ts[:, None] <= torch.maximum(t0, t1))
    if not bool(inside.all()):
        bad = ts[~inside.all(1)][0].item()
        raise ValueError(f"SaveAt.ts has {bad}, outside the span from {t0[0].item()} to {t1[0].item()}; drop it")
