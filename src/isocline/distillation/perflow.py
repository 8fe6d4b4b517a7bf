"""Piecewise rectified flow: the teacher's flow made straight within each of a few windows of time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.interval_law import StratifiedIntervals
from isocline.distillation.straight_target import straight_target
from isocline.distillation.teacher_flow import follow_flow
from isocline.objectives.base import Distiller, Loss
from isocline.objectives.weighting import AbstractWeighting, UniformWeighting, weighted_mean
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.probability_flow import LinearPathVariable
from isocline.shapes import expand_like
from isocline.solvers.explicit import Heun
from isocline.solvers.stepper import AbstractStepper

__all__ = ["PiecewiseRectifiedFlow"]


class PiecewiseRectifiedFlow(Distiller):
    """Matching on the straight line between a window's noisy end and where the teacher's flow takes it.

    Data is diffused to the window's upper end; the teacher solves to its lower end, online, in a few steps; the student
    learns the line's slope at a random time between. It is reflow without pairs on disk, and since a window is short
    its trajectories cross less. All of it happens in `LinearPathVariable`, so that on other processes than the linear
    path, too, the line is one that DDIM steps follow. Sample with DDIM steps whose grid holds the boundaries.

    Where no two lines of a window cross, the least loss is zero: each window is then made in one step. The student's
    field leaps at the boundaries, where sampling asks for it; a network of two times is told where the jump ends and
    need not guess on which side it is.

    Source: *PeRFlow: Piecewise Rectified Flow as Universal Plug-and-Play Accelerator*, Yan et al., 2024, Algorithm 1.

    Args:
        process: the teacher's.
        teacher: frozen network.
        boundaries: times between the windows, each between 0 and t_max; K − 1 of them make K windows.
        steps: of the teacher's solver per window.
        stepper: the teacher's solver, Heun's by default.
        weighting: weight w(t); uniform by default.

    Raises:
        ValueError: if the boundaries are not distinct times inside (0, t_max), or ``steps`` is below 1.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        boundaries: Sequence[float] = (0.25, 0.5, 0.75),
        steps: int = 4,
        stepper: AbstractStepper | None = None,
        weighting: AbstractWeighting | None = None,
    ) -> None:
        super().__init__(teacher)
        inner = sorted(boundaries, reverse=True)
        if len(set(inner)) < len(inner) or not all(0 < time < process.t_max for time in inner):
            raise ValueError(
                f"boundaries = {list(boundaries)}: give distinct times between 0 and t_max = {process.t_max}, "
                "for instance [0.25, 0.5, 0.75]"
            )
        if steps < 1:
            raise ValueError(f"steps = {steps}: the teacher needs at least 1 per window")
        self.process = process
        self.steps = steps
        self.stepper = Heun() if stepper is None else stepper
        self.weighting = UniformWeighting() if weighting is None else weighting
        self.times = torch.tensor([process.t_max, *inner, 0.0], dtype=torch.float64)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One window and one time within it per sample of ``batch.x0 (B, *event)``, stratified over the windows."""
        x0, process, variable = batch.x0, self.process, LinearPathVariable()
        window = StratifiedIntervals()(len(x0), process, self.times, generator)
        share, ahead = torch.rand(2, len(x0), generator=generator, dtype=torch.float64, device=generator.device)
        upper, lower = (self.times.to(window.device)[window + offset] for offset in (0, 1))
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        above, below = (variable.position(process, time) for time in (upper, lower))
        y_above = variable.from_state(process, above, process.mix(x0, noise, process.schedule(upper)))
        with torch.no_grad():
            teacher = Denoiser(self.teacher, process)
            y_below = follow_flow(teacher, variable, self.stepper, y_above, above, below, batch.cond, self.steps)
        position = above + (below - above) * share
        y = torch.lerp(y_above, y_below, expand_like(share.to(y_above.dtype), y_above))
        t = variable.time(process, position).clamp(process.t_min, process.t_max)
        x = variable.to_state(process, variable.position(process, t), y)
        ends = [variable.to_state(process, p, state) for p, state in ((above, y_above), (below, y_below))]
        wanted = straight_target(process, upper, ends[0], lower, ends[1], at=t, x=x)
        # The line's slope is that of every jump along it: half of those asked for end with the window.
        s = lower + (t - lower) * (2 * ahead - 1).clamp(min=0.0)
        found = Denoiser(network, process).towards(s).predict(t, x, batch.cond, process.prediction)
        errors = (found - wanted).square().flatten(1).mean(1)
        total = weighted_mean(errors, self.weighting(process.schedule(t), process.prediction))
        return Loss(total, {"mse": errors.detach().mean()})
