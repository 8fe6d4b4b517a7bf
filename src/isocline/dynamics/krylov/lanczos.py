"""Eigenvalues of symmetric matrices, and what they tell of others: largest singular value and logarithmic norm."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.dynamics.krylov.arnoldi import Eigenpairs, Spectrum, ritz_values
from isocline.dynamics.krylov.basis import krylov_basis
from isocline.dynamics.krylov.operator import LinearOperator

__all__ = ["lanczos_eigenpairs", "lanczos_eigenvalues", "largest_singular_value", "logarithmic_norm"]


def lanczos_eigenvalues(operator: LinearOperator, steps: int, generator: torch.Generator) -> Spectrum:
    """Eigenvalues of symmetric matrices, the largest first; both ends of the spectrum converge first.

    Every vector is orthogonalised against all earlier ones, so that no copies of converged values appear. The largest
    value is a lower bound of the largest eigenvalue, the smallest an upper bound of the smallest.

    Args:
        operator: symmetric matrices (which is not checked).
        steps: products with each matrix, and number of values found; cut to their size.
        generator: source of the start, on the CPU.

    Returns:
        Spectrum with float64 values, falling; an eigenvalue lies within the residual of each.

    Source: Lanczos (1950); Parlett, The Symmetric Eigenvalue Problem (1998), chapter 13.
    """
    return ritz_values(krylov_basis(operator, steps, generator), symmetric=True)[0]


def lanczos_eigenpairs(operator: LinearOperator, steps: int, generator: torch.Generator) -> Eigenpairs:
    """As `lanczos_eigenvalues`, with the vectors, float64 of shape (B, k, n)."""
    basis = krylov_basis(operator, steps, generator)
    spectrum, weights = ritz_values(basis, symmetric=True)
    return Eigenpairs(*spectrum, torch.einsum("bmk,bmn->bkn", weights, basis.vectors))


def largest_singular_value(operator: LinearOperator, iterations: int, generator: torch.Generator) -> Tensor:
    """Spectral norms ``‖A‖₂``, float64, shape (B,), from below, by Lanczos on ``AᵀA``.

    Args:
        operator: matrices whose transposed products are known.
        iterations: products with each of them, and with its transposed.
        generator: source of the start, on the CPU.
    """
    return lanczos_eigenvalues(operator.gram(), iterations, generator).values[:, 0].clamp(min=0).sqrt()


def logarithmic_norm(operator: LinearOperator, iterations: int, generator: torch.Generator) -> Tensor:
    """``μ₂(A)``, the largest eigenvalue of ``(A + Aᵀ)/2``, float64, shape (B,), from below.

    Two solutions of ``x' = A x`` part from one another no faster than ``exp(μ₂ t)``; it is negative for contractions,
    and no smaller than the spectral abscissa, to which it is equal for normal matrices.

    Args:
        operator: matrices whose transposed products are known.
        iterations: products with each of them, and with its transposed.
        generator: source of the start, on the CPU.

    Source: Dahlquist (1958); Söderlind, The logarithmic norm: history and modern theory (2006).
    """
    return lanczos_eigenvalues(operator.symmetric_part(), iterations, generator).values[:, 0]
