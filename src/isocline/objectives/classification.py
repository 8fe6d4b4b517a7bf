"""Classification: cross-entropy of the label."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective

__all__ = ["Answer", "Classification"]


class Answer(Protocol):
    """What a classifier returns: ``logits`` (B, K), and the evaluations that they took, ``nfe`` (B,)."""

    @property
    def logits(self) -> Tensor:
        """Unnormalised log-probabilities."""

    @property
    def nfe(self) -> Tensor:
        """Evaluations per sample."""


class Classification(Objective):
    """−log p(label | x), in nats, where the labels are ``batch.cond``.

    The network is called as ``network(x)`` and returns an `Answer`: a classifier has no time and no condition.

    Args:
        smoothing: share of the probability that is spread evenly over all classes.

    Raises:
        ValueError: if ``smoothing`` is outside [0, 1).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing = {smoothing}: must be in [0, 1)")
        self.smoothing = smoothing

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Mean cross-entropy over the batch; nothing is drawn.

        Raises:
            ValueError: if the batch has no labels.
        """
        if batch.cond is None:
            raise ValueError("the batch has no labels; set network.classes to their number, data.images.classes")
        answer: Answer = network(batch.x0)
        total = F.cross_entropy(answer.logits, batch.cond, label_smoothing=self.smoothing)
        right = answer.logits.detach().argmax(1) == batch.cond
        return Loss(total, {"accuracy": right.float().mean(), "nfe": answer.nfe.float().mean()})
