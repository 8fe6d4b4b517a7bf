"""Derivatives through implicit methods: agreement with differences and unrolled iterations, samples that fail."""

import math

import pytest
import torch
from implicit_methods import KINDS, START, logistic, per_sample

from isocline.solvers import ConstantSteps, ODEProblem, Status, solve
from isocline.solvers.implicit_runge_kutta import GaussLegendre4, ImplicitEuler, RadauIIA5
from isocline.solvers.stage_newton import Newton
from isocline.solvers.stage_solvers import FixedPoint


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_newton_agree_with_finite_differences(kind):
    rate = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    start = START.clone().requires_grad_()

    def final(start, rate):
        def field(t, y, cond):
            return rate * torch.cos(per_sample(t, y)) * y * (1 - y * y.flip(1))

        return solve(ODEProblem(field, start, 0.0, 1.0), kind(Newton(tol=1e-14)), ConstantSteps(2)).final

    assert torch.autograd.gradcheck(final, (start, rate), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_newton_are_those_of_a_converged_fixed_point(kind):
    rate = torch.tensor([0.8, 1.3], dtype=torch.float64)

    def gradients(solver):
        start, scale = START.clone().requires_grad_(), rate.clone().requires_grad_()

        def field(t, y, cond):
            return scale * y * (1 - y * y.flip(1))

        final = solve(ODEProblem(field, start, 0.0, 1.0), kind(solver), ConstantSteps(3)).final
        return torch.autograd.grad(final.square().sum(), (start, scale))

    for newton, fixed in zip(gradients(Newton(tol=1e-14)), gradients(FixedPoint(80)), strict=True):
        torch.testing.assert_close(newton, fixed, rtol=1e-11, atol=1e-12)


def test_gradient_of_a_stiff_step_is_exact_where_unrolling_would_blow_up():
    # One implicit Euler step of dy/dt = -λ y: dy1/dλ = -h y / (1 + h λ)^2.
    rate = torch.tensor(1e6, dtype=torch.float64, requires_grad=True)
    problem = ODEProblem(lambda t, y, cond: -rate * y, START, 0.0, 0.1)
    solve(problem, ImplicitEuler(), ConstantSteps(1)).final.sum().backward()
    assert float(rate.grad) == pytest.approx(float(-0.1 * START.sum() / (1 + 1e5) ** 2), rel=1e-8)


def test_recording_gradients_changes_no_bit_of_the_solution():
    start = START.clone().requires_grad_()
    recorded = solve(ODEProblem(logistic, start, 0.0, 2.0), RadauIIA5(), ConstantSteps(5)).final
    with torch.no_grad():
        plain = solve(ODEProblem(logistic, START, 0.0, 2.0), RadauIIA5(), ConstantSteps(5)).final
    assert torch.equal(recorded, plain)


def test_forward_mode_derivatives_agree_with_reverse_mode():
    def final(start):
        return solve(ODEProblem(logistic, start, 0.0, 1.0), GaussLegendre4(), ConstantSteps(2)).final

    tangent = torch.tensor([[1.0, -0.5], [0.25, 2.0]], dtype=torch.float64)
    _, forward = torch.func.jvp(final, (START,), (tangent,))
    _, backward = torch.autograd.functional.vjp(lambda s: (final(s) * tangent.flip(0)).sum(), START)
    assert float((forward * tangent.flip(0)).sum()) == pytest.approx(float((backward * tangent).sum()), rel=1e-12)


def test_a_sample_without_a_solution_fails_alone_and_leaves_gradients_finite():
    # z = h (y + z)^2 has a real root only for 4 h y <= 1: at h = 1 the second sample has none.
    start = torch.tensor([[0.2], [2.0]], dtype=torch.float64)
    rate = torch.ones((), dtype=torch.float64, requires_grad=True)
    problem = ODEProblem(lambda t, y, cond: rate * y * y, start, 0.0, 1.0)
    solution = solve(problem, ImplicitEuler(), ConstantSteps(1))
    assert solution.status.tolist() == [int(Status.SUCCESS), int(Status.STEP_FAILED)]
    assert float(solution.final[0].detach()) == pytest.approx((1 - math.sqrt(1 - 0.8)) / 2, rel=1e-12)
    solution.final[0].sum().backward()
    # From y1 = y0 + r y1²: dy1/dr = y1² / (1 - 2 r y1).
    y1 = (1 - math.sqrt(0.2)) / 2
    assert float(rate.grad) == pytest.approx(y1 * y1 / (1 - 2 * y1), rel=1e-10)


def test_a_sample_whose_iteration_leaves_the_domain_leaves_gradients_of_shared_parameters_finite():
    # The first Newton step from 1e-4 is to a negative number, whose root is not a number.
    start = torch.tensor([[6.0], [1e-4]], dtype=torch.float64)
    rate = torch.ones((), dtype=torch.float64, requires_grad=True)
    problem = ODEProblem(lambda t, y, cond: -rate * torch.sqrt(y), start, 0.0, 1.0)
    solution = solve(problem, ImplicitEuler(), ConstantSteps(1))
    assert solution.status.tolist() == [int(Status.SUCCESS), int(Status.STEP_FAILED)]
    assert not solution.final[1].isfinite()
    solution.final[0].sum().backward()
    # y1 = y0 - r sqrt(y1) is 4 for y0 = 6, and dy1/dr = -sqrt(y1) / (1 + 1 / (2 sqrt(y1))) = -8/5.
    assert float(solution.final[0].detach()) == pytest.approx(4.0, rel=1e-12)
    assert float(rate.grad) == pytest.approx(-8 / 5, rel=1e-10)
