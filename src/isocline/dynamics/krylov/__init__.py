"""Krylov methods on Jacobians and Hessians that are never formed: eigenvalues, singular values, logarithmic norms."""

from isocline.dynamics.krylov.arnoldi import Eigenpairs, Spectrum, arnoldi_eigenpairs, arnoldi_eigenvalues
from isocline.dynamics.krylov.lanczos import (
    lanczos_eigenpairs,
    lanczos_eigenvalues,
    largest_singular_value,
    logarithmic_norm,
)
from isocline.dynamics.krylov.operator import LinearOperator, hessian_operator, jacobian_operator

__all__ = [
    "Eigenpairs",
    "LinearOperator",
    "Spectrum",
    "arnoldi_eigenpairs",
    "arnoldi_eigenvalues",
    "hessian_operator",
    "jacobian_operator",
    "lanczos_eigenpairs",
    "lanczos_eigenvalues",
    "largest_singular_value",
    "logarithmic_norm",
]
