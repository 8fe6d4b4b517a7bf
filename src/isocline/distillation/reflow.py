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


def straightness(ts: Tensor, ys: Tensor) -> Tensor:
    """Return S = ∫ ‖(y_end − y_start)/(t_end − t_start) − ẏ‖² |dt| / (d |t_end − t_start|) per trajectory.

    0 for a straight flow travelled at constant speed. ẏ is the slope between neighbouring saved states, so that S is
    exact for the polygon that a sampler with ``save_steps=True`` walked, Euler's own in particular; it grows with
    the number of steps towards the flow's. On the linear path y = x; of another process hand in the states of
    `LinearPathVariable`.

    Source: *Flow Straight and Fast*, Liu et al., 2023, Eq. 7.

    Args:
        ts: times of the states, ``(K,)`` or ``(K, 1)``, monotone.
        ys: states ``(K, B, *event)``.

    Returns:
        ``(B,)``, float64.

    Raises:
        ValueError: if there are fewer than two states.
    """
    if len(ys) < 2:
        raise ValueError(f"{len(ys)} state: straightness needs a trajectory; sample with save_steps=True")
    times, states = ts.double().reshape(len(ys)), ys.double().flatten(2)
    steps, whole = times.diff(), times[-1] - times[0]
    slopes = states.diff(dim=0) / steps[:, None, None]
    bend = (slopes - (states[-1] - states[0]) / whole).square().mean(-1)
    return (bend * (steps / whole)[:, None]).sum(0)
