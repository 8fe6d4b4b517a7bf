"""Reflow: straighten a flow by matching on the pairs that it generates itself."""

from __future__ import annotations

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Distiller, Loss
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes
from isocline.objectives.weighting import AbstractWeighting
from isocline.processes.coupling import PairedCoupling
from isocline.processes.gaussian import GaussianProcess

__all__ = ["Reflow"]


class Reflow(Distiller):
    """Matching on batches whose ``x1`` is the noise from which the teacher's ODE made ``x0``.

    The teacher's work is in the pairs (a stage of its own); here it is only held for lineage and evaluation.

    Source: *Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow*, Liu et al., 2023.

    Args:
        process: the teacher's.
        teacher: the frozen network that made the pairs.
        times: law of t.
        weighting: weight w(t); uniform by default.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        times: AbstractTimes[GaussianProcess] | None = None,
        weighting: AbstractWeighting | None = None,
    ) -> None:
        super().__init__(teacher)
        times = StratifiedTimes() if times is None else times
        self.matching = DenoisingMatching(process, weighting, times, PairedCoupling())

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the matching loss on the pairs.

        Raises:
            ValueError: if the batch has no ``x1``.
        """
        return self.matching(network, batch, generator)  # type: ignore[no-any-return]
