"""Reflow: straighten a flow by matching on the pairs that it generates itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Distiller, Loss
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes
from isocline.objectives.weighting import AbstractWeighting
from isocline.processes.coupling import PairedCoupling
from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess

__all__ = ["Reflow", "straightness"]


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
        times: AbstractTimes | None = None,
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


def straightness(
    denoiser: AbstractDenoiser, x0: Tensor, x1: Tensor, times: Tensor, cond: Tensor | None = None
) -> Tensor:
    """Return ∫‖u_t(x_0, x_1) − velocity(t, x_t)‖² dt / d per pair, by the mean over ``times``: 0 for a straight flow.

    On the linear path u = x_1 − x_0. The velocity is the model's at x_t = α x_0 + σ x_1, on the pair's own line.

    Source: *Flow Straight and Fast*, Liu et al., 2023, Eq. 7.

    Args:
        denoiser: network and process.
        x0: ends of the flow ``(B, *event)``.
        x1: the noise they came from, same shape.
        times: equidistant interior times ``(K,)``, float64 (midpoints make it second order).
        cond: handed to the network.

    Returns:
        ``(B,)``, in the dtype of x0.
    """
    process, total = denoiser.process, torch.zeros(x0.shape[0], dtype=x0.dtype, device=x0.device)
    for t in times:
        values = process.schedule(t)
        x = process.mix(x0, x1, values)
        line = values.dalpha.to(x0) * x0 + values.dsigma.to(x0) * x1
        total = total + (line - denoiser.velocity(t, x, cond)).square().flatten(1).mean(1)
    return total / len(times)
