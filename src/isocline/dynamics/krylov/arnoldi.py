"""Eigenvalues of matrices that are known by their products only, a batch at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.krylov.basis import KrylovBasis, krylov_basis
from isocline.dynamics.krylov.operator import LinearOperator

__all__ = ["Eigenpairs", "Spectrum", "arnoldi_eigenpairs", "arnoldi_eigenvalues", "ritz_values"]


class Spectrum(NamedTuple):
    """Approximate eigenvalues of B matrices.

    Attributes:
        values: shape (B, k): complex by falling modulus, or, of symmetric matrices, real and falling.
        residuals: ``‖A v - θ v‖`` for the unit vectors v that belong to them, float64, shape (B, k), at least the
            rounding error of the operator's dtype. θ is an eigenvalue of a matrix that is as near to A as that; of a
            normal matrix, A itself has an eigenvalue within that distance.
    """

    values: Tensor
    residuals: Tensor

    def converged(self, rtol: float = 1e-3) -> Tensor:
        """Which values have a residual below ``rtol`` times the largest modulus, bool, shape (B, k)."""
        return self.residuals <= rtol * self.values.abs().amax(1, keepdim=True)

    @property
    def radius(self) -> Tensor:
        """The largest modulus found, shape (B,): the spectral radius."""
        return self.values.abs().amax(1)

    @property
    def abscissa(self) -> Tensor:
        """The largest real part found, shape (B,): the spectral abscissa."""
        return self.values.real.amax(1)


class Eigenpairs(NamedTuple):
    """Approximate eigenvalues with their vectors.

    Attributes:
        values: as in `Spectrum`, shape (B, k).
        residuals: likewise.
        vectors: unit vectors, shape (B, k, n).
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor


def arnoldi_eigenvalues(operator: LinearOperator, steps: int, generator: torch.Generator) -> Spectrum:
    """Eigenvalues by the Arnoldi process; those on the rim of the spectrum converge first.

    The basis is never restarted: for a given number of products no restarted variant searches a larger space, and it
    takes ``8 B n steps`` bytes. With as many steps as rows all eigenvalues are exact to rounding. Defective eigenvalues
    of multiplicity p are found to the p-th root of the rounding error, which is what they are worth in any method.

    Args:
        operator: the matrices.
        steps: products with each matrix, and number of values found; cut to their size.
        generator: source of the start, on the CPU; its state after the call depends on ``steps`` and n only.

    Returns:
        Spectrum with complex128 values by falling modulus; NaN for samples whose products are not finite.

    Source: Arnoldi (1951); Saad, Numerical Methods for Large Eigenvalue Problems (2011), chapter 6.
    """
    return ritz_values(krylov_basis(operator, steps, generator), symmetric=False)[0]


def arnoldi_eigenpairs(operator: LinearOperator, steps: int, generator: torch.Generator) -> Eigenpairs:
    """As `arnoldi_eigenvalues`, with the vectors, complex128 of shape (B, k, n)."""
    basis = krylov_basis(operator, steps, generator)
    spectrum, weights = ritz_values(basis, symmetric=False)
    return Eigenpairs(*spectrum, torch.einsum("bmk,bmn->bkn", weights, basis.vectors.to(weights.dtype)))


def ritz_values(basis: KrylovBasis, symmetric: bool) -> tuple[Spectrum, Tensor]:
    """Eigenvalues of the projected matrices, with vectors in the basis's own coordinates, shape (B, m, k)."""
    projected = basis.projected
    finite = projected.isfinite().all(-1).all(-1)
    projected = torch.where(finite[:, None, None], projected, 0.0)
    if symmetric:
        values, weights = torch.linalg.eigh((projected + projected.mT) / 2)
        values, weights = values.flip(1), weights.flip(2)
    else:
        values, weights = torch.linalg.eig(projected)
        # Stable, so that of a pair the one with the positive imaginary part comes first, as LAPACK has it.
        order = values.abs().argsort(dim=1, descending=True, stable=True)
        values, weights = values.gather(1, order), weights.gather(2, order[:, None].expand_as(weights))
    residuals = torch.maximum(basis.rest[:, None] * weights[:, -1].abs(), basis.rounding[:, None])
    values = torch.where(finite[:, None], values, torch.nan)
    return Spectrum(values, torch.where(finite[:, None], residuals, torch.nan)), weights
