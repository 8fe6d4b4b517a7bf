"""Linear systems corrected by products with the Jacobian that the field itself makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.solvers.linear import AbstractFactors

__all__ = ["RefinedFactors"]


@dataclass(frozen=True, slots=True)
class RefinedFactors(AbstractFactors):
    """Factors of ``I - hγJ`` whose solutions the field corrects.

    The rounding of a large ``hγJ`` drowns the identity, and with it equations between components that the field keeps
    (conserved sums, species in quasi-equilibrium): the matrix as stored does not have them, so that no scaling,
    pivoting or refinement by that matrix brings them back. The field has them. So the residual ``r - u + hγ J u``
    takes ``J u`` from the field, as a directional derivative, and the factors only reduce it. Newton's iteration on the
    field itself does the same.

    Attributes:
        factors: of the matrix as rounded.
        scaled: hγ, shape () or (B, 1).
        push: ``J u`` for u of shape (B, N); one evaluation.
        sweeps: corrections of each solution.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), chapter 12 (iterative refinement).
    """

    factors: AbstractFactors
    scaled: Tensor
    push: Callable[[Tensor], Tensor]
    sweeps: int

    def solve(self, right: Tensor) -> Tensor:
        """Solve, and correct."""
        found = self.factors.solve(right)
        for _ in range(self.sweeps):
            residual = torch.addcmul(right - found, self.scaled, self.push(found))
            found = found + self.factors.solve(residual)
        return found
