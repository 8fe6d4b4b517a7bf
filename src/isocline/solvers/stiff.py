"""What steppers for stiff problems have in common: they linearize the field."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from isocline.solvers.jacobian import Derivative
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractStiffStepper", "spectral_bound"]


class AbstractStiffStepper(AbstractStepper):
    """A stepper that needs the field's Jacobian in every step."""

    def __init__(self, derivative: Derivative | None = None) -> None:
        """Choose how the field is differentiated.

        Args:
            derivative: None takes the problem's ``jac``, or else the best way that the field supports.
        """
        self._derivative = derivative
        self._measures = False

    def measuring(self) -> Self:
        """The same stepper, whose carry tells the size of the Jacobian."""
        other = copy.copy(self)
        other._measures = True
        return other

    @abstractmethod
    def radius(self, carry: Any) -> Tensor:
        """A bound of the spectral radius of the Jacobian in the last step, shape (B,); of a stepper that measures."""

    def _unmeasured(self, y0: Tensor) -> Tensor | None:
        if not self._measures:
            return None
        dtype = y0.real.dtype if y0.is_complex() else y0.dtype
        return torch.full((len(y0),), torch.inf, dtype=dtype, device=y0.device)

    def _measured(self, jacobian: Tensor) -> Tensor | None:
        return spectral_bound(jacobian.detach()) if self._measures else None


def spectral_bound(matrices: Tensor) -> Tensor:
    """The smaller of the largest sum of moduli over a row and over a column, shape (B,) for (B, N, N)."""
    size = matrices.abs()
    return torch.minimum(size.sum(1).amax(1), size.sum(2).amax(1))
