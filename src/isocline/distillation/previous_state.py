"""The state at the earlier time of a pair: one step of the teacher's flow, or the data with the same noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from isocline.distillation.teacher_flow import follow_flow
from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess, PathSample
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable
from isocline.solvers.explicit import Euler
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractPreviousState", "SameNoise", "TeacherStep"]


class AbstractPreviousState(ABC):
    """``previous(teacher, path, low, cond)``: a state at ``low`` on the trajectory through ``path.x``."""

    @abstractmethod
    def __call__(self, teacher: AbstractDenoiser, path: PathSample, low: Tensor, cond: Any) -> Tensor:
        """Return the state.

        Args:
            teacher: the frozen network under its process.
            path: the state at the pair's high time, with the data and the noise that it is made of.
            low: ``(B,)`` float64, at most ``path.t``.
            cond: condition or None.
        """

    def check(self, process: GaussianProcess) -> None:  # noqa: B027
        """Raise ValueError if a process does not allow it."""


class TeacherStep(AbstractPreviousState):
    """One step of the teacher's probability flow: consistency distillation.

    Source: *Consistency Models*, Song et al., 2023, Algorithm 2; with guidance, *Latent Consistency Models*, Luo et
    al., 2023, §4.2.

    Args:
        stepper: Euler (DDIM's step, one teacher call) or a method of more stages.
        variable: in which the step is taken; it must end at t = 0.
        guide: puts guidance around the teacher, for a student that has it built in.
    """

    def __init__(
        self,
        stepper: AbstractStepper | None = None,
        variable: AbstractVariable | None = None,
        guide: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        self.stepper = Euler() if stepper is None else stepper
        self.variable = LinearPathVariable() if variable is None else variable
        self.guide = guide

    def __call__(self, teacher: AbstractDenoiser, path: PathSample, low: Tensor, cond: Any) -> Tensor:
        """Return where the step ends."""
        process, variable = teacher.process, self.variable
        denoiser = teacher if self.guide is None else self.guide(teacher)
        start, end = variable.position(process, path.t), variable.position(process, low)
        y = variable.from_state(process, start, path.x)
        return variable.to_state(process, end, follow_flow(denoiser, variable, self.stepper, y, start, end, cond))

    def check(self, process: GaussianProcess) -> None:
        """Raise ValueError unless the step can lead to data."""
        if self.variable.end(process) > 0:
            raise ValueError(
                f"{type(self.variable).__name__} ends at t_min={process.t_min}, not at t = 0; use LinearPathVariable"
            )


class SameNoise(AbstractPreviousState):
    """α x_0 + σ ε with the data and the noise of the later state: consistency training, which asks no teacher.

    On average over the data that a state may come from it is the flow's step; a single one is off by O(t − s), which
    is the floor of the loss.

    Source: *Consistency Models*, Song et al., 2023, Algorithm 3.
    """

    def __call__(self, teacher: AbstractDenoiser, path: PathSample, low: Tensor, cond: Any) -> Tensor:
        """Return the same mixture at another time."""
        return teacher.process.mix(path.x0, path.x1, teacher.process.schedule(low))
