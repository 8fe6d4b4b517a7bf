"""Regression of a stochastic interpolant's velocity, or of its noise, between two data sets."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.time_sampling import lattice
from isocline.processes.coupling import AbstractCoupling, PairedCoupling
from isocline.processes.stochastic_interpolant import InterpolantSample, StochasticInterpolant

__all__ = ["AbstractInterpolantMatching", "InterpolantNoiseMatching", "InterpolantVelocityMatching"]


class AbstractInterpolantMatching(Objective):
    """E_{t, x0, x1, z} ‖network(t, x_t) − target‖²/d at times uniform in [t_min, 1 − t_min], stratified over the batch.

    Its minimiser is E[target | x_t = x].

    Source: *Stochastic Interpolants*, Albergo, Boffi & Vanden-Eijnden, 2023, Eqs. 2.13 and 2.19.

    Args:
        interpolant: the path.
        coupling: which x1 belongs to which x0; by default the batch's own pairs.
    """

    def __init__(self, interpolant: StochasticInterpolant, coupling: AbstractCoupling | None = None) -> None:
        super().__init__()
        self.interpolant = interpolant
        self.coupling = PairedCoupling() if coupling is None else coupling

    @abstractmethod
    def target(self, point: InterpolantSample) -> Tensor:
        """Return what the network is to predict, ``(B, *event)``."""

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss on ``batch.x0 (B, *event)``; the logged term is ``mse``."""
        x0, x1 = self.coupling(batch.x0, batch.x1, generator)
        low = self.interpolant.t_min
        times = low + (1 - 2 * low) * lattice(len(x0), generator)
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=generator.device)
        point = self.interpolant.sample(x0, x1, z, times)
        target = self.target(point)
        total = (network(times, point.x, batch.cond).to(target.dtype) - target).square().mean()
        return Loss(total, {"mse": total.detach()})


class InterpolantVelocityMatching(AbstractInterpolantMatching):
    """The target is ẋ: the network learns the flow's velocity b."""

    def target(self, point: InterpolantSample) -> Tensor:
        """Return x_1 − x_0 + γ̇ z."""
        return point.velocity


class InterpolantNoiseMatching(AbstractInterpolantMatching):
    """The target is z: the network learns the denoiser E[z | x], that is −γ times the score."""

    def target(self, point: InterpolantSample) -> Tensor:
        """Return z."""
        return point.z
