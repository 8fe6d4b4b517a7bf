"""Weights of the pairs of times in a consistency loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from isocline.distillation.time_pairs import TimePair
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable

__all__ = ["AbstractPairWeighting", "InverseGapWeighting", "UniformPairWeighting"]


class AbstractPairWeighting(ABC):
    """``weighting(process, pair) -> (B,)`` float64, or None for weight one."""

    @abstractmethod
    def __call__(self, process: GaussianProcess, pair: TimePair) -> Tensor | None:
        """Return the weights."""


class UniformPairWeighting(AbstractPairWeighting):
    """w = 1."""

    def __call__(self, process: GaussianProcess, pair: TimePair) -> Tensor | None:
        """Return None: nothing to multiply."""
        return None


class InverseGapWeighting(AbstractPairWeighting):
    """w = 1/(t − s) in a variable's own time: a distance becomes a slope, as large whatever the curriculum.

    The articles' time is σ/α, where the state at t = 1 of a process with α(1) = 0 is infinitely far; the linear
    path's position σ/(α + σ) is the default here.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, §3.1; *Consistency Models
    Made Easy*, Geng et al., 2025, §3.3.

    Args:
        variable: in which the gap is measured.
    """

    def __init__(self, variable: AbstractVariable | None = None) -> None:
        self.variable = LinearPathVariable() if variable is None else variable

    def __call__(self, process: GaussianProcess, pair: TimePair) -> Tensor:
        """Return the weights."""
        gap = self.variable.position(process, pair.high) - self.variable.position(process, pair.low)
        # A pair of one point has no loss; its weight is to be finite.
        return 1.0 / gap.clamp(min=1e-12)
