"""Where a continuous adjoint stops on its way back: at every save time, where the solve is known and its cotangent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractAdaptiveController, AbstractController, AbstractGrid
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt, Solution, Status

__all__ = ["GivenTimes", "Stops"]


def _has_one_clock(controller: AbstractController) -> bool:
    """Whether all samples step together."""
    return not isinstance(controller, AbstractAdaptiveController) or controller.joint


class GivenTimes(AbstractGrid):
    """A grid that was laid out before, for all samples or for each its own."""

    def __init__(self, times: Tensor) -> None:
        """Take the grid as it is.

        Args:
            times: float64, shape (N+1,) or (N+1, B).
        """
        self._times = times.cpu()

    def times(self, problem: AbstractProblem) -> Tensor:
        """The grid."""
        return self._times


@dataclass(frozen=True, eq=False)
class Stops:
    """Start and save times in the order in which the solve meets them.

    Attributes:
        times: start first, float64, shape (K+1,), or (K+1, B) where samples have their own clocks.
        order: place of each save in the output, int64, shape (K,) or (K, B).
        grid: the points of a fixed grid, shape (N+1,) or (N+1, B); None under adaptive control.
    """

    times: Tensor
    order: Tensor
    grid: Tensor | None

    @classmethod
    def of(cls, problem: AbstractProblem, controller: AbstractController, saveat: SaveAt, solution: Solution) -> Stops:
        """Find them after a solve.

        Args:
            problem: the equation.
            controller: the solve's.
            saveat: what was saved.
            solution: the result.
        """
        device = solution.ys.device
        t0, t1 = (torch.as_tensor(t, dtype=torch.float64).detach().to(device) for t in (problem.t0, problem.t1))
        grid = controller.times(problem).to(device) if isinstance(controller, AbstractGrid) else None
        shared = _has_one_clock(controller)
        if not shared:
            t0, t1 = t0.expand_as(solution.status), t1.expand_as(solution.status)
        if saveat.ts is None and not saveat.steps:
            at_event = solution.status == int(Status.EVENT)
            if not shared:
                t1 = torch.where(at_event, solution.stopped_at.detach(), t1)
            elif bool(at_event.any()):
                t1 = solution.stopped_at.detach()[0].reshape(t1.shape)
            both = t0 + t1
            t0, t1 = t0.expand_as(both), t1.expand_as(both)
            return cls(torch.stack([t0, t1]), torch.zeros_like(t0[None], dtype=torch.int64), grid)
        ts = solution.ts.to(device)
        if ts.ndim == 1 and t0.ndim:
            ts = ts[:, None].expand(-1, len(t0))
        sign = torch.where(t1 >= t0, 1.0, -1.0).to(torch.float64)
        order = (sign * ts).argsort(stable=True, dim=0)
        return cls(torch.cat([t0.expand_as(ts[:1]), ts.gather(0, order)]), order, grid)

    def reversed_grid(self, interval: int, rows: Tensor | None) -> GivenTimes:
        """The grid's points from the end of an interval back to its start.

        Args:
            interval: number of the interval, zero for the first.
            rows: samples, None for all.
        """
        assert self.grid is not None
        ends = self.times[interval : interval + 2]
        if self.grid.ndim == 1:
            low, high = ends.aminmax()
            inner = self.grid[(self.grid > low) & (self.grid < high)]
            return GivenTimes(torch.cat([ends[1:], inner.flip(0), ends[:1]]))
        # Samples with their own grids save only the end, or every point.
        points = self.grid.flip(0) if len(self.times) == 2 else ends.flip(0)
        return GivenTimes(points if rows is None else points[:, rows])
