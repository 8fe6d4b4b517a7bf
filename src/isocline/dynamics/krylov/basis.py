"""Orthonormal bases of Krylov spaces, one for each sample of an operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.krylov.operator import LinearOperator

__all__ = ["KrylovBasis", "krylov_basis"]


class KrylovBasis(NamedTuple):
    """``A V = V H + h w eᵀ``: a basis, the projected matrix and what is left over.

    Attributes:
        vectors: rows of V, orthonormal, float64, shape (B, m, n).
        projected: H, float64, shape (B, m, m).
        rest: h, the length of the part of ``A v_m`` outside the space, shape (B,).
        rounding: size of the errors that the operator's dtype leaves in H, shape (B,).
    """

    vectors: Tensor
    projected: Tensor
    rest: Tensor
    rounding: Tensor


def krylov_basis(operator: LinearOperator, steps: int, generator: torch.Generator) -> KrylovBasis:
    """The Arnoldi process, with every vector orthogonalised twice against all earlier ones.

    All samples start from one random vector, so that what is found for one does not depend on the batch. Where a space
    is exhausted (a breakdown) the process goes on with another random vector, orthogonal to it, so that the other
    samples may go on too, and eigenvalues of higher multiplicity are found as well.

    Args:
        operator: the matrices.
        steps: products to make with each, cut to their size.
        generator: source of the vectors, on the CPU.

    Raises:
        ValueError: if ``steps`` is below one.

    Source: Saad, Numerical Methods for Large Eigenvalue Problems (2011), sections 6.2 and 6.6.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; expected at least one")
    count, size, steps = operator.batch, operator.size, min(steps, operator.size)
    draws = torch.randn(steps + 1, size, dtype=torch.float64, generator=generator).to(operator.device)
    draws /= torch.linalg.vector_norm(draws, dim=1, keepdim=True)
    basis = draws.new_zeros(count, steps + 1, size)
    projected = draws.new_zeros(count, steps + 1, steps)
    basis[:, 0] = draws[0]
    largest, epsilon = draws.new_zeros(count), torch.finfo(operator.dtype).eps
    for step in range(steps):
        image = operator.apply(basis[:, step])
        largest = torch.maximum(largest, torch.linalg.vector_norm(image, dim=1))
        known = basis[:, : step + 1]
        image, weights = _orthogonalise(image, known)
        length = torch.linalg.vector_norm(image, dim=1)
        spent = length <= 10 * epsilon * largest
        projected[:, : step + 1, step] = weights
        if step + 1 == size:
            # The basis is complete; anything that is left is rounding.
            break
        projected[:, step + 1, step] = torch.where(spent, 0.0, length)
        if bool(spent.any()):
            fresh, _ = _orthogonalise(draws[step + 1].expand(count, -1), known)
            image = torch.where(spent[:, None], fresh, image)
            length = torch.linalg.vector_norm(image, dim=1)
        basis[:, step + 1] = image / length[:, None]
    rest = projected[:, steps, steps - 1]
    return KrylovBasis(basis[:, :steps], projected[:, :steps], rest, epsilon * largest)


def _orthogonalise(vectors: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of (B, n) outside a basis (B, m, n), and the coefficients within, shape (B, m)."""
    total = vectors.new_zeros(basis.shape[:2])
    for _ in range(2):
        weights = torch.einsum("bmn,bn->bm", basis, vectors)
        vectors = vectors - torch.einsum("bmn,bm->bn", basis, weights)
        total = total + weights
    return vectors, total
