"""The network whose answers a consistency model is to agree with: the student itself, stopped, or its average."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import nn

from isocline.distillation.target_decay import AbstractTargetDecay, ConstantDecay

__all__ = ["AbstractTarget", "AveragedTarget", "StoppedStudent"]


class AbstractTarget(nn.Module, ABC):
    """Gives the network that answers at the earlier time; a module, so that what it keeps survives a resume."""

    @abstractmethod
    def network(self, student: nn.Module) -> nn.Module:
        """Return the target network; it is called without gradients."""

    def prepare(self, student: nn.Module) -> None:
        """Begin with the student's weights."""

    def follow(self, student: nn.Module, intervals: float) -> None:
        """Update after an optimiser step.

        Args:
            student: the network just updated.
            intervals: into how many the flow was cut in that step.
        """


class StoppedStudent(AbstractTarget):
    """The student itself without gradient.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, §3.2: an average biases the
    fixed point. The average that is evaluated is another one.
    """

    def network(self, student: nn.Module) -> nn.Module:
        """Return the student."""
        return student


class AveragedTarget(AbstractTarget):
    """The exponential moving average of the student; its buffers are copied, not averaged.

    Source: *Consistency Models*, Song et al., 2023, Eq. 8.

    Args:
        decay: μ as a function of the number of intervals.
    """

    def __init__(self, decay: AbstractTargetDecay | None = None) -> None:
        super().__init__()
        self.decay = ConstantDecay() if decay is None else decay
        self.average: nn.Module | None = None

    def prepare(self, student: nn.Module) -> None:
        """Begin with a copy of the student."""
        self.average = copy.deepcopy(student).requires_grad_(False)

    def network(self, student: nn.Module) -> nn.Module:
        """Return the average."""
        if self.average is None:
            self.prepare(student)
        assert self.average is not None
        return self.average

    @torch.no_grad()
    def follow(self, student: nn.Module, intervals: float) -> None:
        """Move the average towards the student."""
        average = self.network(student)
        torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 1.0 - self.decay(intervals))
        for kept, new in zip(average.buffers(), student.buffers(), strict=True):
            kept.copy_(new)
