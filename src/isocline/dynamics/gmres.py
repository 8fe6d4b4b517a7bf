"""GMRES for a batch of linear systems, each with its own operator, right side, tolerance and end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LinearSolution", "gmres"]


class LinearSolution(NamedTuple):
    """Result of `gmres`.

    Attributes:
        x: shape (B, n).
        residual: ``|b - A x| / |b|`` as the recurrence has it, float64, shape (B,).
        products: operator applications that the sample needed, int64, shape (B,).
    """

    x: Tensor
    residual: Tensor
    products: Tensor


def gmres(matvec: Callable[[Tensor], Tensor], b: Tensor, tolerance: Tensor, iterations: int) -> LinearSolution:
    """Minimise ``|b - A x|`` over the Krylov space of ``A, b``, without restarts.

    Modified Gram–Schmidt with one re-orthogonalisation; the small least-squares problems are kept in float64. A
    sample that has reached its tolerance, or whose space is exhausted, keeps its dimension while others go on.

    Source: Saad, Schultz, GMRES: a generalized minimal residual algorithm for solving nonsymmetric linear systems
    (1986), section 3.

    Args:
        matvec: ``(B, n) -> (B, n)``, linear, each row by its own operator.
        b: right sides, shape (B, n).
        tolerance: relative residual that ends a sample, shape (B,).
        iterations: largest dimension; at most n is used.

    Raises:
        ValueError: if ``iterations`` is below one.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}; expected at least one")
    count, width = b.shape
    most = min(iterations, width)
    beta = torch.linalg.vector_norm(b.double(), dim=1)
    basis = [_normalised(b, beta)]
    fit = _LeastSquares(count, most, b.device)
    residual = torch.where(beta > 0, 1.0, 0.0).double()
    products = torch.zeros(count, dtype=torch.int64, device=b.device)
    open_ = (residual > tolerance) & beta.isfinite()
    for j in range(most):
        if not bool(open_.any()):
            break
        products += open_
        vector, column = _orthogonalised(matvec(basis[j]), basis)
        height = torch.linalg.vector_norm(vector.double(), dim=1)
        finite = column.isfinite().all(1) & height.isfinite()
        left = fit.append(column, height, open_ & finite)
        open_ = open_ & finite
        residual = torch.where(open_, left, residual)
        size = torch.linalg.vector_norm(column, dim=1) + height
        open_ = open_ & (residual > tolerance) & (height > 4 * torch.finfo(b.dtype).eps * size)
        basis.append(_normalised(vector, height))
    coefficients = fit.solve(beta).to(b.dtype)
    used = torch.stack(basis[:most], 1)
    x = torch.einsum("bjn,bj->bn", used, coefficients[:, : used.shape[1]])
    return LinearSolution(x, residual, products)


class _LeastSquares:
    """``min |beta e_1 - H y|`` for Hessenberg matrices that grow by a column at a time, by Givens rotations."""

    def __init__(self, count: int, most: int, device: torch.device) -> None:
        self.rotations = torch.eye(most + 1, dtype=torch.float64, device=device).repeat(count, 1, 1)
        # Columns that a sample does not use stay those of the identity.
        self.upper = torch.eye(most, dtype=torch.float64, device=device).repeat(count, 1, 1)
        self.used = torch.zeros(count, most, dtype=torch.bool, device=device)
        self.columns = 0
        self.least = torch.ones(count, dtype=torch.float64, device=device)

    def append(self, column: Tensor, height: Tensor, rows: Tensor) -> Tensor:
        """Add a column (B, j + 1) and what stands below it (B,) to the samples ``rows``; the relative minima."""
        j, self.columns = self.columns, self.columns + 1
        padded = torch.zeros_like(self.rotations[:, 0])
        padded[:, : j + 1], padded[:, j + 1] = column, height
        turned = torch.einsum("bij,bj->bi", self.rotations, torch.where(rows[:, None], padded, 0.0))
        length = torch.hypot(turned[:, j], turned[:, j + 1])
        # What is left of a column that depends on the others is rounding: it must not turn the right side.
        size = torch.linalg.vector_norm(padded, dim=1)
        length = torch.where(length > 8 * torch.finfo(torch.float64).eps * size, length, 0.0)
        cosine = torch.where(length > 0, turned[:, j] / length, 1.0)[:, None]
        sine = torch.where(length > 0, turned[:, j + 1] / length, 0.0)[:, None]
        above, below = self.rotations[:, j], self.rotations[:, j + 1]
        rotated = torch.stack([cosine * above + sine * below, cosine * below - sine * above], 1)
        self.rotations[:, j : j + 2] = torch.where(rows[:, None, None], rotated, self.rotations[:, j : j + 2])
        turned[:, j] = length
        turned[:, j + 1 :] = 0.0
        self.upper[:, :, j] = torch.where(rows[:, None], turned[:, :-1], self.upper[:, :, j])
        self.used[:, j] = rows
        self.least = torch.where(rows & (length > 0), self.rotations[:, j + 1, 0].abs(), self.least)
        return self.least

    def solve(self, beta: Tensor) -> Tensor:
        """y, shape (B, most); zero in columns that are not used."""
        right = torch.where(self.used, self.rotations[:, :-1, 0], 0.0) * beta[:, None]
        return (torch.linalg.pinv(self.upper) @ right[..., None])[..., 0]


def _normalised(vector: Tensor, length: Tensor) -> Tensor:
    scale = torch.where((length > 0) & length.isfinite(), 1 / length, 0.0)
    # An operator that overflowed must not reach the other entries of the sample's combination.
    return (vector * scale.to(vector.dtype)[:, None]).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _orthogonalised(vector: Tensor, basis: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What is left of a vector, and its coefficients, float64, shape (B, len(basis))."""
    frame = torch.stack(basis, 1)
    first = torch.einsum("bjn,bn->bj", frame, vector)
    vector = vector - torch.einsum("bjn,bj->bn", frame, first)
    second = torch.einsum("bjn,bn->bj", frame, vector)
    vector = vector - torch.einsum("bjn,bj->bn", frame, second)
    return vector, (first + second).double()
