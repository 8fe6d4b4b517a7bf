"""Divergences between two laws of one token, given as log-probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["AbstractDivergence", "ForwardKL", "ReverseKL"]


class AbstractDivergence(ABC):
    """How far a student's law is from its target; both log-probabilities are finite, ``(*rows, V)``."""

    @abstractmethod
    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Divergence per row, ``(*rows,)``, at least 0."""


class ForwardKL(AbstractDivergence):
    """KL(target ‖ student): over random targets it is least at their arithmetic mean."""

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Σ exp(target) (target − student)."""
        return (target.exp() * (target - student)).sum(-1)


class ReverseKL(AbstractDivergence):
    """KL(student ‖ target): over random targets it is least at their normalised geometric mean, which is sharper."""

    def __call__(self, student: Tensor, target: Tensor) -> Tensor:
        """Σ exp(student) (student − target)."""
        return (student.exp() * (student - target)).sum(-1)
