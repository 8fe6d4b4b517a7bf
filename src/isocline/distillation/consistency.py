"""Consistency models: one network call maps any point of a flow to the flow's end, or to another of its points."""

from __future__ import annotations

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.consistency_function import ConsistencyDistiller
from isocline.distillation.destination import AbstractDestination, DataDestination
from isocline.distillation.distance import AbstractDistance, PseudoHuber
from isocline.distillation.pair_weighting import AbstractPairWeighting, UniformPairWeighting
from isocline.distillation.previous_state import AbstractPreviousState, TeacherStep
from isocline.distillation.shared_dropout import SharedDropout
from isocline.distillation.target_network import AbstractTarget, AveragedTarget
from isocline.distillation.time_pairs import AbstractTimePairs, GridPairs, TimePair
from isocline.objectives.base import Loss
from isocline.objectives.weighting import weighted_mean
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess

__all__ = ["ConsistencyMatching"]


class ConsistencyMatching(ConsistencyDistiller):
    """w d(X_{t→e}(x_t), X⁻_{r→e}(x_r)) for times e ≤ r < t of one trajectory: the student agrees with itself.

    X is the flow map that the student's prediction makes (`isocline.processes.flow_map`), with X_{t→t} = id exactly,
    so that c_skip(0) = 1 of the articles holds by construction: where r = e the target is x_r itself. X⁻ is the
    target network's, which has the student's dropout masks. The articles differ in the parts:

    ==================  ============  ==================  ===============  ==============  =====================
    method              x_r           (t, r)              target           weight          e
    ==================  ============  ==================  ===============  ==============  =====================
    CD                  teacher step  grid, N(k)          average          1               0
    CT                  same noise    grid, N(k)          average, μ(k)    1               0
    iCT                 same noise    grid, log-normal    student          1/(t − r)       0
    ECT                 same noise    shrinking ratio     student          1/(t − r)       0
    TCD                 teacher step  grid                average          1               uniform on [0, r]
    PCM                 teacher step  grid                average          1               lower edge of a phase
    ==================  ============  ==================  ===============  ==============  =====================

    Source: *Consistency Models*, Song et al., 2023, Algorithms 2 and 3, for CD and CT; each part names its own.

    Args:
        process: the teacher's.
        teacher: frozen network; asked only where ``previous`` steps along its flow.
        previous: gives x_r; a step of the teacher by default.
        pairs: law of (t, r).
        target: which network answers at r.
        distance: d.
        weighting: w.
        destination: e.

    Raises:
        ValueError: if the boundary condition cannot hold.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        previous: AbstractPreviousState | None = None,
        pairs: AbstractTimePairs | None = None,
        target: AbstractTarget | None = None,
        distance: AbstractDistance | None = None,
        weighting: AbstractPairWeighting | None = None,
        destination: AbstractDestination | None = None,
    ) -> None:
        super().__init__(process, teacher)
        self.previous = TeacherStep() if previous is None else previous
        self.pairs = GridPairs() if pairs is None else pairs
        self.target = AveragedTarget() if target is None else target
        self.distance = PseudoHuber() if distance is None else distance
        self.weighting = UniformPairWeighting() if weighting is None else weighting
        self.destination = DataDestination() if destination is None else destination
        self.previous.check(process)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss on ``batch.x0 (B, *event)``; the logged term ``intervals`` is N(k)."""
        x0, process, cond = batch.x0, self.process, batch.cond
        pair = self.pairs(x0.shape[0], process, self.step, generator)
        end = self.destination(process, pair, generator)
        pair = TimePair(pair.high, torch.maximum(pair.low, end))
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        path = process.sample(x0, noise, pair.high)
        dropout = SharedDropout(x0.device)
        found = flow_map(Denoiser(network, process), pair.high, end, path.x, cond)
        with torch.no_grad():
            x_low = self.previous(Denoiser(self.teacher, process), path, pair.low, cond)
            with dropout.replayed():
                wanted = flow_map(Denoiser(self.target.network(network), process), pair.low, end, x_low, cond)
        total = weighted_mean(self.distance(found - wanted), self.weighting(process, pair))
        mse = (found - wanted).detach().square().mean()
        return Loss(total, {"mse": mse, "intervals": torch.tensor(self.pairs.intervals(self.step))})

    def prepare(self, network: nn.Module) -> None:
        """Begin the target with the student's weights."""
        self.target.prepare(network)

    def after_step(self, network: nn.Module, step: int) -> None:
        """Move the target towards the student and the curriculum on."""
        self.target.follow(network, self.pairs.intervals(self.step))
        super().after_step(network, step)
