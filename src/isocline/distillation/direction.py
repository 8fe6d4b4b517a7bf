"""Where a state goes on the probability flow, told by a teacher or by the very data and noise that the state is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.processes.gaussian import GaussianProcess, PathSample
from isocline.processes.prediction import AbstractPrediction

__all__ = ["AbstractDirection", "DataDirection", "TeacherDirection"]


class AbstractDirection(ABC):
    """A prediction at a point of the path, in whatever form is asked for: a slope, since those are predictions too."""

    @abstractmethod
    def __call__(
        self, teacher: nn.Module, process: GaussianProcess, path: PathSample, cond: Any, to: AbstractPrediction
    ) -> Tensor:
        """Return it without gradient.

        Args:
            teacher: the frozen network.
            process: its process.
            path: the point, with the data and the noise that it is made of.
            cond: condition handed to the teacher.
            to: what is wanted.

        Returns:
            Shape and dtype of ``path.x``.
        """


class DataDirection(AbstractDirection):
    """That of the straight way between this data and this noise: training, for which no teacher is asked.

    Its mean given the state is the flow's, so that a loss which is linear in it (but for a square) has the same
    minimiser with more variance.
    """

    def __call__(
        self, teacher: nn.Module, process: GaussianProcess, path: PathSample, cond: Any, to: AbstractPrediction
    ) -> Tensor:
        """Return the prediction's target."""
        return to.target(path.x0, path.x1, path.values)


class TeacherDirection(AbstractDirection):
    """The teacher's: distillation, at one evaluation a sample.

    Args:
        wrap: what is put around the teacher's denoiser first (guidance, say), so that the student learns the wrapped
            teacher's flow.
    """

    def __init__(self, wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None) -> None:
        self.wrap = wrap

    @torch.no_grad()
    def __call__(
        self, teacher: nn.Module, process: GaussianProcess, path: PathSample, cond: Any, to: AbstractPrediction
    ) -> Tensor:
        """Ask the teacher."""
        own = Denoiser(teacher, process)
        denoiser = own if self.wrap is None else self.wrap(own)
        return denoiser.predict(path.t, path.x, cond, to)
