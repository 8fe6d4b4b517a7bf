"""Hide some labels in training, so that one network learns the conditional and the unconditional law."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective

__all__ = ["LabelDropout"]


class LabelDropout(Objective):
    """Any objective, with a share of the labels replaced by −1 ("none"); batches without labels draw nothing.

    Everything else, the likelihood included, is the wrapped objective's.

    Source: *Classifier-Free Diffusion Guidance*, Ho & Salimans, 2022, Algorithm 1.

    Args:
        objective: makes the objective, from the process if there is one.
        process: handed on.
        share: of the labels that are hidden.

    Raises:
        ValueError: if the share is outside [0, 1].
    """

    def __init__(self, objective: Callable[..., Objective], process: Any = None, share: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share = {share}: must be in [0, 1]")
        self.inner = objective() if process is None else objective(process=process)
        self.share = share

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":  # not built yet
                raise
            return getattr(self.inner, name)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """The wrapped loss of the batch with some labels hidden."""
        if batch.cond is not None and self.share > 0:
            hidden = torch.rand(batch.cond.shape, generator=generator, device=generator.device) < self.share
            batch = batch._replace(cond=batch.cond.masked_fill(hidden.to(batch.cond.device), -1))
        loss: Loss = self.inner(network, batch, generator)
        return loss

    def prepare(self, network: nn.Module) -> None:
        """Prepare the wrapped objective."""
        self.inner.prepare(network)

    def after_step(self, network: nn.Module, step: int) -> None:
        """Tell the wrapped objective."""
        self.inner.after_step(network, step)
