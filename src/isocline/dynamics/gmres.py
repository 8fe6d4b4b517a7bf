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

    Modified Gram–Schmidt with one re-orthogonalisation; the small least-squares problems are solved in float64. A
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
    hessenberg = torch.zeros(count, most + 1, most, dtype=torch.float64, device=b.device)
    coefficients = torch.zeros(count, most, dtype=torch.float64, device=b.device)
    residual = torch.where(beta > 0, 1.0, 0.0).double()
    products = torch.zeros(count, dtype=torch.int64, device=b.device)
    open_ = (residual > tolerance) & beta.isfinite()
    for j in range(most):
        if not bool(open_.any()):
            break
        products += open_
        vector, column = _orthogonalised(matvec(basis[j]), basis)
        height = torch.linalg.vector_norm(vector.double(), dim=1)
        hessenberg[:, : j + 1, j], hessenberg[:, j + 1, j] = column, height
        fitted, left = _least_squares(hessenberg[:, : j + 2, : j + 1], beta)
        better = open_ & left.isfinite()
        coefficients[:, : j + 1] = torch.where(better[:, None], fitted, coefficients[:, : j + 1])
        residual = torch.where(better, left, residual)
        size = torch.linalg.vector_norm(column, dim=1) + height
        open_ = better & (residual > tolerance) & (height > 4 * torch.finfo(b.dtype).eps * size)
        basis.append(_normalised(vector, height))
    used = torch.stack(basis[:most], 1)
    x = torch.einsum("bjn,bj->bn", used, coefficients[:, : used.shape[1]].to(b.dtype))
    return LinearSolution(x, residual, products)


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


def _least_squares(hessenberg: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Minimiser of ``|beta e_1 - H y|``, shape (B, j), and the relative minimum, shape (B,)."""
    finite = hessenberg.flatten(1).isfinite().all(1)
    matrix = torch.where(finite[:, None, None], hessenberg, 0.0)
    right = torch.zeros(*matrix.shape[:2], 1, dtype=matrix.dtype, device=matrix.device)
    right[:, 0, 0] = 1.0
    y = torch.linalg.pinv(matrix) @ right
    left = torch.linalg.vector_norm((right - matrix @ y)[..., 0], dim=1)
    return y[..., 0] * beta[:, None], torch.where(finite, left, torch.inf)
