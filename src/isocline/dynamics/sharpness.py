"""Sharpness: the largest eigenvalues of a loss's Hessian, by Lanczos."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.krylov import hessian_operator, lanczos_eigenvalues

__all__ = ["Sharpness", "sharpness"]


@dataclass(frozen=True)
class Sharpness:
    """What Lanczos found of a Hessian.

    Attributes:
        values: its Ritz values, falling.
        residual: of the first; the Hessian has an eigenvalue within this distance of it.
    """

    values: tuple[float, ...]
    residual: float

    @property
    def top(self) -> float:
        """λ_max, from below."""
        return self.values[0]


def sharpness(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], steps: int, generator: torch.Generator
) -> Sharpness:
    """Find the largest eigenvalues of the Hessian of a loss in its parameters.

    Args:
        loss: returns a scalar, the same at every call.
        parameters: leaves that require gradients.
        steps: Hessian-vector products; ten to twenty give λ_max of a trained network to a few digits.
        generator: of the start, on the CPU.

    Source: Cohen, Kaur, Li, Kolter, Talwalkar, Gradient descent on neural networks typically occurs at the edge of
    stability (2021), appendix A.
    """
    found = lanczos_eigenvalues(hessian_operator(loss, parameters), steps, generator)
    return Sharpness(tuple(found.values[0].tolist()), float(found.residuals[0, 0]))
