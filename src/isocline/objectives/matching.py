"""Denoising and flow matching: regression of the process's own prediction on a random point of the path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.time_sampling import AbstractTimes, UniformTimes
from isocline.objectives.weighting import AbstractWeighting, UniformWeighting, weighted_mean
from isocline.processes.coupling import AbstractCoupling, IndependentCoupling
from isocline.processes.gaussian import GaussianProcess

__all__ = ["DenoisingMatching"]


class DenoisingMatching(Objective):
    """E_{t, x0, x1} w(t) ‖network(t, x_t) − p‖²/d, with p the process's prediction at x_t = α x_0 + σ x_1.

    Its minimiser is the posterior mean of p given x_t. With a velocity prediction on the linear path it is
    conditional flow matching; with a noise or score prediction, denoising score matching.

    Source: *A Connection Between Score Matching and Denoising Autoencoders*, Vincent, 2011; *Flow Matching for
    Generative Modeling*, Lipman et al., 2023, Eq. 9.

    Args:
        process: the path and what is predicted.
        weighting: w(t).
        times: law of t.
        coupling: which noise belongs to which data.
        label_dropout: share of the labels that are hidden (−1), so that the network learns the unconditional field
            beside the conditional one, as *Classifier-Free Diffusion Guidance*, Ho & Salimans, 2022, needs; nothing
            is drawn for batches without labels.

    Raises:
        ValueError: if ``label_dropout`` is outside [0, 1].
    """

    def __init__(
        self,
        process: GaussianProcess,
        weighting: AbstractWeighting | None = None,
        times: AbstractTimes[GaussianProcess] | None = None,
        coupling: AbstractCoupling | None = None,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_dropout <= 1.0:
            raise ValueError(f"label_dropout = {label_dropout}: must be in [0, 1]")
        self.label_dropout = label_dropout
        self.process = process
        self.weighting = UniformWeighting() if weighting is None else weighting
        self.times = UniformTimes() if times is None else times
        self.coupling = IndependentCoupling() if coupling is None else coupling

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss on ``batch.x0 (B, *event)``; the logged term ``mse`` is the error without weights."""
        x0, x1 = self.coupling(batch.x0, batch.x1, generator)
        path = self.process.sample(x0, x1, self.times(x0.shape[0], self.process, generator))
        cond = self._labels(batch.cond, generator)
        error = (network(path.t, path.x, cond).to(path.target.dtype) - path.target).square()
        weight = self.weighting(path.values, self.process.prediction)
        if weight is None:
            total = error.mean()
            return Loss(total, {"mse": total.detach()})
        per_sample = error.flatten(1).mean(1)
        total = weighted_mean(per_sample, weight)
        return Loss(total, {"mse": per_sample.detach().mean()})

    def _labels(self, cond: Tensor | None, generator: torch.Generator) -> Tensor | None:
        if cond is None or self.label_dropout == 0:
            return cond
        hidden = torch.rand(cond.shape, generator=generator, device=generator.device) < self.label_dropout
        return cond.masked_fill(hidden.to(cond.device), -1)
