"""What distillers of consistency functions share: the boundary f(x, 0) = x, and a count of steps that is resumed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.objectives.base import Distiller
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction

__all__ = ["ConsistencyDistiller"]


class ConsistencyDistiller(Distiller):
    """A distiller whose student maps states to data, f(x, 0) = x by construction, on a schedule of optimiser steps.

    Args:
        process: the teacher's.
        teacher: the frozen network.

    Attributes:
        step: optimiser steps done; in the state, so that schedules go on where a resumed run was.

    Raises:
        ValueError: if f(x, 0) = x cannot hold.
    """

    def __init__(self, process: GaussianProcess, teacher: nn.Module) -> None:
        super().__init__(teacher)
        if isinstance(process.prediction, DataPrediction):
            raise ValueError(
                "DataPrediction: a network that predicts data need not return x at t = 0; use a noise or v prediction"
            )
        if float(process.schedule(0.0).sigma) > 0:
            name = type(process.schedule).__name__
            raise ValueError(f"{name} has σ(0) > 0, so f(x, 0) = x cannot hold; use a schedule with σ(0) = 0")
        self.process = process
        self.step = 0

    def after_step(self, network: nn.Module, step: int) -> None:
        """Count the step."""
        self.step = step

    def get_extra_state(self) -> Tensor:
        """Return the step."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the step."""
        self.step = int(state)
