"""The way back of the continuous adjoints from save time to save time, where samples or times count unequally."""

from __future__ import annotations

import warnings

import pytest
import torch

from isocline.solvers import ODEProblem, PIDController, SaveAt, Tsit5, solve
from isocline.solvers.gradient import AdjointWarning, BacksolveAdjoint, InterpolatedAdjoint

CONTROL = PIDController(rtol=1e-9, atol=1e-11)
JOINT = PIDController(rtol=1e-9, atol=1e-11, joint=True)


@pytest.mark.parametrize("seminorm", [True, False])
def test_times_whose_states_do_not_count_raise_no_doubt(seminorm):
    y0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    saveat = SaveAt(ts=torch.linspace(0.5, 3, 6))
    problem = ODEProblem(lambda t, y, cond: 0.5 * y, y0, 0.0, 3.0)
    solution = solve(problem, Tsit5(), CONTROL, saveat, gradient=BacksolveAdjoint(seminorm=seminorm))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdjointWarning)
        solution.ys[1].sum().backward()
    torch.testing.assert_close(y0.grad, torch.full_like(y0, 0.5).exp(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("adjoint", [BacksolveAdjoint, InterpolatedAdjoint])
def test_a_field_that_mixes_samples_has_the_gradient_of_the_matrix_exponential(adjoint):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    y0 = torch.randn(3, 2, dtype=torch.float64, generator=generator).requires_grad_()
    # Cotangents of very different size from sample to sample.
    cotangent = torch.tensor([1.0, 1e3, 0.0], dtype=torch.float64)[:, None].expand(3, 2)
    problem = ODEProblem(lambda t, y, cond: matrix @ y, y0, 0.0, 1.0, is_separable=False)
    solution = solve(problem, Tsit5(), JOINT, gradient=adjoint())
    solution.final.backward(cotangent)
    torch.testing.assert_close(y0.grad, torch.linalg.matrix_exp(matrix).T @ cotangent, rtol=1e-6, atol=1e-6)
