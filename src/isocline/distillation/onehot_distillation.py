"""Flow maps of tokens: any distiller of Gaussian flows, at work on one-hot vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Distiller, Loss
from isocline.processes.onehot_network import VectorNetwork, vector_process
from isocline.processes.onehot_path import OneHotGaussianPath

__all__ = ["OneHotDistillation"]


class OneHotDistillation(Distiller):
    """Distil a one-hot Gaussian flow by a method for flows of vectors, such as consistency distillation.

    Teacher and student stay networks that map a view of the state to logits; the method sees them as networks of
    vectors (`isocline.processes.onehot_network`), and data as one-hot vectors.

    Unlike a step on tokens, which draws every position as if independent, a map of this flow carries noise of all
    positions to tokens of all positions together: one evaluation can make tokens that depend on each other.

    Args:
        process: the teacher's path.
        teacher: frozen network, ``teacher(t, view, cond) -> (B, L, S)`` logits.
        method: called with ``process`` and ``teacher`` of vectors, returns the distiller.
        t_max: where the maps begin; the sampler must start there too.
    """

    def __init__(
        self, process: OneHotGaussianPath, teacher: nn.Module, method: Callable[..., Distiller], t_max: float = 0.99
    ) -> None:
        super().__init__(teacher)
        self.process = process
        self.method = method(process=vector_process(process, t_max), teacher=VectorNetwork(teacher, process))

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """The method's loss on the one-hot vectors of ``batch.x0`` ``(B, L)``."""
        vectors = batch._replace(x0=self.process.corner(batch.x0))
        loss: Loss = self.method(self._of_vectors(network), vectors, generator)
        return loss

    def prepare(self, network: nn.Module) -> None:
        """Prepare the method."""
        self.method.prepare(self._of_vectors(network))

    def after_step(self, network: nn.Module, step: int) -> None:
        """Tell the method."""
        self.method.after_step(self._of_vectors(network), step)

    def _of_vectors(self, network: nn.Module) -> VectorNetwork:
        # Made anew each time: a module that held the student would take its weights into this one's state.
        return VectorNetwork(network, self.process)
