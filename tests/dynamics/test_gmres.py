"""Batched GMRES."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.dynamics.gmres import gmres

D = torch.float64


def systems(seed: int, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(count, size, size, generator=draw, dtype=D) / size**0.5 + 2 * torch.eye(size, dtype=D)
    return matrix, torch.randn(count, size, generator=draw, dtype=D)


def apply(matrix: torch.Tensor):
    return lambda v: torch.einsum("bij,bj->bi", matrix, v)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), size=st.integers(1, 12))
def test_a_full_space_solves_every_system(seed: int, count: int, size: int) -> None:
    matrix, b = systems(seed, count, size)
    solution = gmres(apply(matrix), b, torch.zeros(count, dtype=D), size)
    torch.testing.assert_close(apply(matrix)(solution.x), b, rtol=1e-8, atol=1e-8)


def test_the_residual_reported_is_the_residual_and_falls_with_the_dimension() -> None:
    matrix, b = systems(0, 3, 20)
    last = torch.ones(3, dtype=D)
    for iterations in (1, 3, 6, 12):
        solution = gmres(apply(matrix), b, torch.zeros(3, dtype=D), iterations)
        true = torch.linalg.vector_norm(b - apply(matrix)(solution.x), dim=1) / torch.linalg.vector_norm(b, dim=1)
        torch.testing.assert_close(solution.residual, true)
        assert (true < last).all()
        last = true


def test_samples_end_apart_and_do_not_depend_on_the_batch() -> None:
    matrix, b = systems(1, 3, 15)
    matrix[1] = torch.eye(15, dtype=D)
    b[2] = 0
    solution = gmres(apply(matrix), b, torch.full((3,), 1e-6, dtype=D), 15)
    assert solution.products.tolist()[1:] == [1, 0]
    assert solution.products[0] > 5
    torch.testing.assert_close(solution.x[1], b[1])
    assert not solution.x[2].any()
    alone = gmres(apply(matrix[:1]), b[:1], torch.full((1,), 1e-6, dtype=D), 15)
    torch.testing.assert_close(alone.x[0], solution.x[0])


def test_an_operator_that_overflows_leaves_the_other_systems_alone() -> None:
    matrix, b = systems(2, 2, 5)
    matrix[0, 0, 0] = torch.inf
    solution = gmres(apply(matrix), b, torch.zeros(2, dtype=D), 5)
    assert solution.x.isfinite().all()
    torch.testing.assert_close((matrix[1] @ solution.x[1]), b[1])


def test_a_singular_system_gets_its_least_residual() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=D))[None]
    solution = gmres(apply(matrix), torch.ones(1, 3, dtype=D), torch.zeros(1, dtype=D), 3)
    assert float(solution.residual) == pytest.approx(3**-0.5)


def test_no_iterations_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations=0"):
        gmres(lambda v: v, torch.ones(1, 2), torch.zeros(1), 0)
