"""Progressive distillation: one step of the student does what two steps of the teacher do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.distillation.interval_law import StratifiedIntervals
from isocline.distillation.promotion import PromotingDistiller
from isocline.distillation.straight_target import straight_target
from isocline.objectives.base import Loss
from isocline.objectives.weighting import AbstractWeighting, TruncatedSNRWeighting, weighted_mean
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.probability_flow import LinearPathVariable

__all__ = ["ProgressiveDistillation"]


class ProgressiveDistillation(PromotingDistiller):
    """The student's DDIM step from t to s lands where the teacher's two steps, t to m and m to s, do.

    With y = x/(α + σ) and π = σ/(α + σ) (`LinearPathVariable`) a DDIM step is y_s = y_t + (π_s − π_t) p with p for
    ε − x_0. The student should predict p* = (y_s − y_t)/(π_s − π_t), in whatever form: as data it is the article's
    target y_t − π_t p*. Nothing is divided by a quantity that vanishes at either end, so the same code serves data, v
    and velocity predictions; a noise prediction says nothing of the data where α = 0.

    Every round halves the number of steps: after ``round_length`` optimiser steps the student so far becomes the
    teacher and N is halved. The last round's student is made for N / 2^rounds DDIM steps on the same grid. It may be a
    network of one time or of two.

    Source: *Progressive Distillation for Fast Sampling of Diffusion Models*, Salimans & Ho, 2022, Algorithm 2 and
    App. G; the weighting, §4.

    Args:
        process: the teacher's.
        teacher: frozen network.
        teacher_steps: N of the first round; a multiple of 2^rounds.
        rounds: number of rounds.
        round_length: optimiser steps per round; needed if there are several.
        grid: where the teacher's steps lie, cut from t_max to 0.
        weighting: w(t), max(SNR, 1) on the error of the data by default.

    Raises:
        ValueError: if N cannot be halved ``rounds`` times, or ``round_length`` is missing.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        teacher_steps: int = 32,
        rounds: int = 1,
        round_length: int | None = None,
        grid: AbstractTimeGrid | None = None,
        weighting: AbstractWeighting | None = None,
    ) -> None:
        super().__init__(teacher, teacher_steps, rounds, round_length)
        self.process = process
        self.grid = UniformTimeGrid() if grid is None else grid
        self.weighting = TruncatedSNRWeighting() if weighting is None else weighting

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One interval of the student's grid per sample of ``batch.x0 (B, *event)``, stratified over the grid."""
        x0, process = batch.x0, self.process
        times = self._times()
        interval = StratifiedIntervals()(len(x0), process, times[::2], generator)
        t, middle, s = (times.to(interval.device)[2 * interval + offset] for offset in (0, 1, 2))
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        values = process.schedule(t)
        x = process.mix(x0, noise, values)
        with torch.no_grad():
            teacher = Denoiser(self.current_teacher, process)
            between = flow_map(teacher, t, middle, x, batch.cond)
            end = flow_map(teacher, middle, s, between, batch.cond)
            wanted = straight_target(process, t, x, s, end, at=t, x=x)
        found = Denoiser(network, process).towards(s).predict(t, x, batch.cond, process.prediction)
        errors = (found - wanted).square().flatten(1).mean(1)
        total = weighted_mean(errors, self.weighting(values, process.prediction))
        return Loss(total, {"mse": errors.detach().mean(), "teacher_steps": torch.tensor(float(self.current_steps))})

    def _times(self) -> Tensor:
        """Times of the teacher's grid, from t_max to 0."""
        variable = LinearPathVariable()
        return variable.time(self.process, self.grid(self.process, variable, self.current_steps))
