"""One step from noise to data, learned from pairs: what a rectified flow is for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.distillation.distance import AbstractDistance, SquaredDistance
from isocline.objectives.base import Distiller, Loss
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess

__all__ = ["OneStepDistillation"]


class OneStepDistillation(Distiller):
    """d(X_{1→0}(x_1), x_0) on pairs of noise and the sample that the teacher's flow makes of it.

    The map is one DDIM step of the student. A flow whose trajectories are straight makes it by itself, so it is learned
    fast after reflow and slowly before. The student is trained at t_max alone: it is for one step, and more steps
    than one are no better.

    Source: *Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow*, Liu et al., 2023,
    §2.2 (distillation).

    Args:
        process: the teacher's.
        teacher: the frozen network that made the pairs; held for lineage alone.
        distance: between the student's sample and the teacher's; the mean square by default.
    """

    def __init__(self, process: GaussianProcess, teacher: nn.Module, distance: AbstractDistance | None = None) -> None:
        super().__init__(teacher)
        self.process = process
        self.distance = SquaredDistance() if distance is None else distance

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss on ``batch.x0`` and ``batch.x1``, both ``(B, *event)``; nothing is drawn.

        Raises:
            ValueError: if the batch has no ``x1``.
        """
        if batch.x1 is None:
            raise ValueError("OneStepDistillation needs batches with x1; train on data/pairs/<teacher>")
        difference = self.map(network, batch.x1, batch.cond) - batch.x0
        return Loss(self.distance(difference).mean(), {"mse": difference.detach().square().mean()})

    def map(self, network: nn.Module, x1: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the student's sample from unit-variance noise ``(B, *event)``."""
        process = self.process
        return flow_map(Denoiser(network, process), process.t_max, 0.0, process.prior(x1), cond)
