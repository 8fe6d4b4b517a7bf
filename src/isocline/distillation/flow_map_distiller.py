"""What objectives for flow maps of two times share: a batch of jumps, each with the average slope that it should have.

All is done in the coordinates y = x/(α + σ), π = σ/(α + σ) of `isocline.processes.probability_flow.LinearPathVariable`,
in which every Gaussian process is the linear path and slopes dy/dπ = ε − x_0 are finite.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.distillation.adaptive_distance import AdaptiveDistance
from isocline.distillation.direction import AbstractDirection, TeacherDirection
from isocline.distillation.distance import AbstractDistance
from isocline.distillation.jump_law import AbstractJumpLaw
from isocline.objectives.base import Distiller, Loss
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DifferencePrediction
from isocline.solvers.rows import select_rows

__all__ = ["DIFFERENCE", "AbstractFlowMapDistiller", "AverageSlope", "MovingJumps"]

DIFFERENCE = DifferencePrediction()


class MovingJumps(NamedTuple):
    """Jumps with s < t.

    Attributes:
        start: t ``(B,)``.
        end: s ``(B,)``.
        x: states at t ``(B, *event)``.
        slope: dy/dπ there, likewise.
        cond: condition or None.
    """

    start: Tensor
    end: Tensor
    x: Tensor
    slope: Tensor
    cond: Any


class AverageSlope(NamedTuple):
    """The average of dy/dπ over a jump, ``(B, *event)``.

    Attributes:
        found: the student's, with gradient.
        wanted: its target, without.
    """

    found: Tensor
    wanted: Tensor


class AbstractFlowMapDistiller(Distiller):
    """Regression of the average slope over [s, t] on a target of the subclass's, of the slope itself where s = t.

    Args:
        process: the teacher's.
        teacher: the frozen network.
        jumps: law of (t, s).
        direction: whose slopes: the teacher's by default, or the data's.
        distance: of found and wanted slopes.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        jumps: AbstractJumpLaw,
        direction: AbstractDirection | None = None,
        distance: AbstractDistance | None = None,
    ) -> None:
        super().__init__(teacher)
        self.process = process
        self.jumps = jumps
        self.direction = TeacherDirection() if direction is None else direction
        self.distance = AdaptiveDistance() if distance is None else distance

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate on ``batch.x0 (B, *event)``; logged are the mean squares of moving jumps and of those of no length.

        Raises:
            ValueError: if the network takes no end.
        """
        if not getattr(network, "takes_end", False):
            raise ValueError(
                f"{type(self).__name__} trains networks of two times; give the student's network end_time: true"
            )
        x0 = batch.x0
        jumps = self.jumps(len(x0), self.process, generator)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        path = self.process.sample(x0, noise, jumps.start)
        slope = self.direction(self.teacher, self.process, path, batch.cond, DIFFERENCE)
        rows = torch.arange(len(x0), device=x0.device)
        whole = MovingJumps(jumps.start, jumps.end, path.x, slope, batch.cond)
        pieces = []
        if jumps.moving:
            pieces.append(self.average(network, select_rows(whole, rows[: jumps.moving])))
        if jumps.moving < len(x0):
            pieces.append(self._slope(network, select_rows(whole, rows[jumps.moving :])))
        difference = torch.cat([piece.found.to(x0.dtype) - piece.wanted for piece in pieces])
        square = difference.detach().square().flatten(1).mean(1)
        names = ("moving_mse", "still_mse")
        parts = {name: part.mean() for name, part in zip(names, square.tensor_split([jumps.moving]), strict=True)}
        return Loss(self.distance(difference).mean(), {name: mse for name, mse in parts.items() if mse.isfinite()})

    def _slope(self, network: nn.Module, still: MovingJumps) -> AverageSlope:
        denoiser = Denoiser(network, self.process).towards(still.end)
        return AverageSlope(denoiser.predict(still.start, still.x, still.cond, DIFFERENCE), still.slope)

    @abstractmethod
    def average(self, network: nn.Module, jumps: MovingJumps) -> AverageSlope:
        """Return the student's average slopes and their targets."""
