"""Batched linear systems of small matrices, one for each sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.solvers.kept import kept

__all__ = ["AbstractFactors", "factorize", "shifted"]

_SMALL = 3


class AbstractFactors(ABC):
    """A factorized batch of matrices."""

    @abstractmethod
    def solve(self, right: Tensor) -> Tensor:
        """Solve for one right-hand side per sample, shape (B, N)."""


@dataclass(frozen=True, slots=True)
class _Inverse(AbstractFactors):
    """Transposed inverses, shape (B, N, N): for the smallest matrices a product is much cheaper than two sweeps."""

    transposed: Tensor

    def solve(self, right: Tensor) -> Tensor:
        return torch.bmm(right.unsqueeze(1), self.transposed).squeeze(1)


@dataclass(frozen=True, slots=True)
class _Triangles(AbstractFactors):
    """LU factors with partial pivoting."""

    factors: Tensor
    pivots: Tensor

    def solve(self, right: Tensor) -> Tensor:
        return torch.linalg.lu_solve(self.factors, self.pivots, right[..., None])[..., 0]


def shifted(jacobian: Tensor, scaled: Tensor) -> Tensor:
    """``I - scaled · J`` for ``jacobian`` of shape (B, N, N) and ``scaled`` of shape () or (B, 1)."""
    identity = _identity(jacobian.shape[-1], jacobian.dtype, jacobian.device)
    return torch.addcmul(identity, scaled[..., None], jacobian, value=-1)


@kept(maxsize=64)
def _identity(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(width, dtype=dtype, device=device)


def factorize(matrices: Tensor) -> AbstractFactors:
    """Factorize each matrix by itself; a sample's result does not depend on the others.

    A singular matrix raises nothing (that would wait for the device): solutions are then not finite.

    Args:
        matrices: real, shape (B, N, N).
    """
    width = matrices.shape[-1]
    if width > _SMALL:
        factors, pivots, _ = torch.linalg.lu_factor_ex(matrices)
        return _Triangles(factors, pivots)
    if width == 1:
        return _Inverse(matrices.reciprocal())
    if width == 2:
        return _Inverse(_inverse_of_two(matrices))
    inverse, _ = torch.linalg.inv_ex(matrices.mT)
    return _Inverse(inverse)


def _inverse_of_two(matrices: Tensor) -> Tensor:
    """Transposed inverses of 2 x 2 matrices by Cramer's rule, which is forward stable at this size."""
    flat = matrices.mT.reshape(-1, 4)
    order, signs = _adjugate(matrices.dtype, matrices.device)
    a, c, b, d = flat.unbind(1)
    determinant = torch.addcmul(a * d, b, c, value=-1)
    return (flat.index_select(1, order) * (signs / determinant[:, None])).view(-1, 2, 2)


@kept(maxsize=8)
def _adjugate(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor([3, 1, 2, 0], device=device), torch.tensor([1, -1, -1, 1], dtype=dtype, device=device)
