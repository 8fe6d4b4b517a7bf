"""Arnoldi and Lanczos against dense eigenvalues and ARPACK: normal, defective, rotating, rank one, float32."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from isocline.dynamics.krylov import (
    LinearOperator,
    arnoldi_eigenpairs,
    arnoldi_eigenvalues,
    lanczos_eigenpairs,
    lanczos_eigenvalues,
    largest_singular_value,
    logarithmic_norm,
)
from isocline.dynamics.krylov.basis import krylov_basis


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def orthogonal(*shape, seed=1):
    return torch.linalg.qr(normal(*shape, seed=seed))[0]


def normal_matrix(eigenvalues, seed=1):
    """A normal matrix with 2x2 blocks for pairs: eigenvalues a ± ib given as (a, b)."""
    blocks = [torch.tensor([[a, -b], [b, a]]) if b else torch.tensor([[a]]) for a, b in eigenvalues]
    core = torch.block_diag(*(block.double() for block in blocks))
    q = orthogonal(len(core), len(core), seed=seed)
    return q @ core @ q.T


def distance(found, wanted):
    """From each value found to the nearest of those wanted, row by row."""
    return (found[..., None] - wanted[..., None, :]).abs().amin(-1)


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_as_many_steps_as_rows_give_every_eigenvalue(size):
    matrices = normal(4, size, size)
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices), 3 * size, generator())
    wanted = torch.linalg.eigvals(matrices)
    assert spectrum.values.shape == (4, size)
    assert distance(spectrum.values, wanted).max() < 1e-11
    assert distance(wanted, spectrum.values).max() < 1e-11
    torch.testing.assert_close(spectrum.radius, wanted.abs().amax(1))
    torch.testing.assert_close(spectrum.abscissa, wanted.real.amax(1))


def test_leading_pairs_of_a_normal_matrix_converge_and_the_residual_bounds_their_error():
    wanted = [(-50.0, 0.0), (3.0, 40.0), (-1.0, 30.0)] + [(-0.1 * k, 0.02 * k) for k in range(1, 40)]
    matrix = normal_matrix(wanted)[None]
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrix), 16, generator())
    errors = distance(spectrum.values, torch.linalg.eigvals(matrix))
    assert (errors <= spectrum.residuals + 1e-10).all()
    expected = torch.tensor([-50.0, 3 + 40j, 3 - 40j, -1 + 30j, -1 - 30j], dtype=torch.complex128)
    torch.testing.assert_close(spectrum.values[0, :5], expected, rtol=1e-4, atol=1e-4)
    assert spectrum.converged(1e-4)[0, :5].all()
    assert not spectrum.converged(1e-4).all()


def test_residuals_are_those_of_the_vectors():
    matrices = normal(3, 30, 30)
    pairs = arnoldi_eigenpairs(LinearOperator.from_matrices(matrices), 12, generator())
    images = torch.einsum("bij,bkj->bki", matrices.to(torch.complex128), pairs.vectors)
    true = torch.linalg.vector_norm(images - pairs.values[..., None] * pairs.vectors, dim=-1)
    torch.testing.assert_close(pairs.residuals, true, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.linalg.vector_norm(pairs.vectors, dim=-1), torch.ones(3, 12, dtype=torch.float64))


def test_residual_of_a_nonnormal_matrix_is_a_distance_to_one_with_that_eigenvalue():
    matrices = torch.triu(normal(2, 20, 20, seed=5)) * 3
    pairs = arnoldi_eigenpairs(LinearOperator.from_matrices(matrices), 10, generator())
    for matrix, values, residuals in zip(matrices, pairs.values, pairs.residuals, strict=True):
        for value, residual in zip(values, residuals, strict=True):
            shifted = matrix.to(torch.complex128) - value * torch.eye(20)
            assert torch.linalg.svdvals(shifted)[-1] <= residual * (1 + 1e-9) + 1e-12


def test_a_defective_eigenvalue_is_found_to_the_root_of_the_rounding_error():
    block = 2 * torch.eye(3, dtype=torch.float64) + torch.diag(torch.ones(2, dtype=torch.float64), 1)
    q = orthogonal(5, 5)
    matrix = q @ torch.block_diag(block, torch.tensor([[-1.0]]), torch.tensor([[0.5]])).double() @ q.T
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrix[None]), 5, generator())
    assert (spectrum.values[0, :3] - 2).abs().max() < 1e-4
    assert (spectrum.values[0, :3].mean() - 2).abs() < 1e-10


def test_a_rotation_has_its_imaginary_pair():
    matrices = torch.stack([normal_matrix([(0.0, w)]) for w in (1.0, 3.0)])
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices), 2, generator())
    torch.testing.assert_close(spectrum.values.imag, torch.tensor([[1.0, -1.0], [3.0, -3.0]], dtype=torch.float64))
    assert spectrum.values.real.abs().max() < 1e-14


def test_an_exhausted_space_goes_on_for_its_sample_and_spoils_no_other():
    u, v = normal(10, 1, seed=7), normal(10, 1, seed=8)
    matrices = torch.stack([u @ v.T, torch.zeros(10, 10, dtype=torch.float64), normal(10, 10)])
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices), 6, generator())
    assert spectrum.values.isfinite().all()
    torch.testing.assert_close(spectrum.values[0, 0].real, (v.T @ u)[0, 0])
    assert spectrum.values[0, 1:].abs().max() < 1e-12
    assert not spectrum.values[1].any()
    alone = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices[2:]), 6, generator())
    torch.testing.assert_close(spectrum.values[2:], alone.values)


def test_a_multiple_eigenvalue_is_found_as_often_as_it_is_there():
    q = orthogonal(8, 8)
    matrix = q @ torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0, 1.0, 0.0, 0.0, -2.0], dtype=torch.float64)) @ q.T
    wanted = torch.tensor([4.0, 4.0, 4.0, 1.0, 1.0, 0.0, 0.0, -2.0], dtype=torch.float64)
    found = lanczos_eigenvalues(LinearOperator.from_matrices(matrix[None]), 8, generator())
    torch.testing.assert_close(found.values[0], wanted, rtol=1e-12, atol=1e-12)


def test_what_is_found_for_a_sample_does_not_depend_on_the_batch():
    matrices = normal(5, 40, 40)
    together = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices), 10, generator())
    for index in range(5):
        alone = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices[index : index + 1]), 10, generator())
        torch.testing.assert_close(together.values[index], alone.values[0], rtol=1e-9, atol=1e-9)


def test_the_basis_is_orthonormal_where_one_pass_would_lose_it():
    # Eigenvalues over twelve orders of magnitude: a single Gram–Schmidt pass loses orthogonality here.
    q = orthogonal(60, 60)
    matrix = q @ torch.diag(torch.logspace(0, -12, 60, dtype=torch.float64)) @ q.T
    vectors = krylov_basis(LinearOperator.from_matrices(matrix[None]), 40, generator()).vectors[0]
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-13)


def test_single_precision_products_cost_no_more_than_their_own_rounding():
    matrices = normal(2, 50, 50)
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices.float()), 50, generator())
    assert spectrum.values.dtype == torch.complex128
    errors = distance(spectrum.values[:, :8], torch.linalg.eigvals(matrices))
    assert errors.max() < 1e-4
    norms = torch.linalg.matrix_norm(matrices, 2)
    assert (spectrum.residuals >= 1e-8 * norms[:, None]).all()
    assert spectrum.residuals.max() < 1e-4 * norms.max()


def test_a_sample_that_is_not_finite_is_nan_and_alone_so():
    matrices = normal(2, 6, 6)
    matrices[0, 2, 3] = math.inf
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrices), 6, generator())
    assert spectrum.values[0].isnan().all()
    assert spectrum.residuals[0].isnan().all()
    assert distance(spectrum.values[1], torch.linalg.eigvals(matrices[1])).max() < 1e-12


def test_arpack_agrees():
    matrix = normal(120, 120, seed=9)
    spectrum = arnoldi_eigenvalues(LinearOperator.from_matrices(matrix[None]), 100, generator())
    peer = scipy.sparse.linalg.eigs(matrix.numpy(), k=6, which="LM", return_eigenvectors=False, v0=np.ones(120))
    assert distance(torch.as_tensor(peer), spectrum.values[0]).max() < 1e-6
    symmetric = (matrix + matrix.T) / 2
    found = lanczos_eigenvalues(LinearOperator.from_matrices(symmetric[None]), 70, generator())
    peer = np.sort(scipy.sparse.linalg.eigsh(symmetric.numpy(), k=4, which="LA", return_eigenvectors=False))[::-1]
    np.testing.assert_allclose(found.values[0, :4].numpy(), peer, rtol=1e-6)


def test_lanczos_bounds_both_ends_from_within_and_converges_there():
    matrices = normal(3, 80, 80)
    matrices = (matrices + matrices.mT) / 2
    wanted = torch.linalg.eigvalsh(matrices)
    before = torch.full((3,), -math.inf, dtype=torch.float64)
    for steps in (5, 15, 45):
        found = lanczos_eigenvalues(LinearOperator.from_matrices(matrices), steps, generator())
        largest, smallest = found.values[:, 0], found.values[:, -1]
        assert (largest >= before).all()
        assert (largest <= wanted[:, -1] + 1e-12).all()
        assert (smallest >= wanted[:, 0] - 1e-12).all()
        before = largest
    torch.testing.assert_close(largest, wanted[:, -1], rtol=1e-5, atol=0)
    errors = (found.values[..., None] - wanted[:, None]).abs().amin(-1)
    assert (errors <= found.residuals + 1e-12).all()


def test_lanczos_vectors_belong_to_their_values():
    matrices = normal(2, 12, 12)
    matrices = matrices + matrices.mT
    pairs = lanczos_eigenpairs(LinearOperator.from_matrices(matrices), 12, generator())
    images = torch.einsum("bij,bkj->bki", matrices, pairs.vectors)
    torch.testing.assert_close(images, pairs.values[..., None] * pairs.vectors, rtol=1e-11, atol=1e-11)


def test_spectral_and_logarithmic_norms_are_the_dense_ones():
    matrices = normal(4, 40, 40) - 3 * torch.eye(40, dtype=torch.float64)
    operator = LinearOperator.from_matrices(matrices)
    norms = torch.linalg.matrix_norm(matrices, 2)
    rightmost = torch.linalg.eigvalsh((matrices + matrices.mT) / 2)[:, -1]
    torch.testing.assert_close(largest_singular_value(operator, 40, generator()), norms)
    torch.testing.assert_close(logarithmic_norm(operator, 40, generator()), rightmost)
    assert (largest_singular_value(operator, 8, generator()) <= norms).all()
    assert (logarithmic_norm(operator, 8, generator()) <= rightmost).all()
    torch.testing.assert_close(logarithmic_norm(operator, 8, generator()), rightmost, rtol=0.2, atol=0)


def test_transient_growth_shows_in_the_logarithmic_norm_and_not_in_the_spectrum():
    matrix = torch.tensor([[[-1.0, 100.0], [0.0, -1.0]]], dtype=torch.float64)
    operator = LinearOperator.from_matrices(matrix)
    torch.testing.assert_close(logarithmic_norm(operator, 2, generator()), torch.tensor([49.0], dtype=torch.float64))
    assert (arnoldi_eigenvalues(operator, 2, generator()).abscissa + 1).abs() < 1e-5


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps=0"):
        arnoldi_eigenvalues(LinearOperator.from_matrices(normal(1, 2, 2)), 0, generator())
