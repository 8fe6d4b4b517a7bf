"""Shortcut models: one jump is to lead where two jumps of half its length lead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.distillation.direction import AbstractDirection
from isocline.distillation.distance import AbstractDistance, SquaredDistance
from isocline.distillation.flow_map_distiller import DIFFERENCE, AbstractFlowMapDistiller, AverageSlope, MovingJumps
from isocline.distillation.jump_law import DyadicJumps
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import on_linear_path
from isocline.processes.gaussian import GaussianProcess
from isocline.shapes import expand_like

__all__ = ["Shortcut"]


class Shortcut(AbstractFlowMapDistiller):
    """‖u_θ(y_t, t, s) − sg(average of u_θ over [m, t] and [s, m])‖² with m halfway, and flow matching for s = t.

    What is learnt about short jumps is handed on to jumps of twice the length. The halves of the shortest jumps are
    Euler steps by the slope itself. The target comes from the student itself without gradient (the article: from its
    average, the one that is evaluated too). With the exact flow map the loss is 0 but for the shortest jumps, whose
    targets have the error of two Euler steps, and under the data's slopes for their variance where s = t.

    Source: *One Step Diffusion via Shortcut Models*, Frans et al., 2025, Eqs. 4 and 5, Algorithm 1 (a step of length d
    is told the network as d; here by its end s).

    Args:
        process: the teacher's.
        teacher: the frozen network; asked only under a `TeacherDirection`.
        direction: whose slopes where s = t: the teacher's by default, or the data's.
        jumps: law of (t, s).
        distance: of found and wanted slopes; the squared one by default.
    """

    jumps: DyadicJumps

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        direction: AbstractDirection | None = None,
        jumps: DyadicJumps | None = None,
        distance: AbstractDistance | None = None,
    ) -> None:
        distance = SquaredDistance() if distance is None else distance
        super().__init__(process, teacher, DyadicJumps() if jumps is None else jumps, direction, distance)

    def average(self, network: nn.Module, jumps: MovingJumps) -> AverageSlope:
        """See the base class."""
        denoiser = Denoiser(network, self.process)
        found = denoiser.towards(jumps.end).predict(jumps.start, jumps.x, jumps.cond, DIFFERENCE)
        with torch.no_grad():
            return AverageSlope(found, self._halves(denoiser, jumps))

    def _halves(self, denoiser: Denoiser, jumps: MovingJumps) -> Tensor:
        t, s = jumps.start, jumps.end
        middle = (t + s) / 2
        start, halfway, end = (on_linear_path(self.process, time) for time in (t, middle, s))
        # Between the shortest length and the next; t_max may have rounded either.
        shortest = t - s < 1.5 * self.jumps.shortest(self.process)

        def expand(factor: Tensor) -> Tensor:
            return expand_like(factor.to(jumps.x.dtype), jumps.x)

        first = denoiser.towards(torch.where(shortest, t, middle)).predict(t, jumps.x, jumps.cond, DIFFERENCE)
        y = jumps.x / expand(start.scale) - expand(start.position - halfway.position) * first
        x = y * expand(halfway.scale)
        second = denoiser.towards(torch.where(shortest, middle, s)).predict(middle, x, jumps.cond, DIFFERENCE)
        share = (start.position - halfway.position) / (start.position - end.position)
        return torch.lerp(second, first, expand(share))
