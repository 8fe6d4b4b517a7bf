"""Newton and fixed-point iteration for the stages of implicit methods: what they find and cost, how they fail."""

import math

import numpy as np
import pytest
import torch
from implicit_methods import KINDS, START, logistic, logistic_jacobian, van_der_pol

from isocline.solvers import ConstantSteps, Euler, Kvaerno5, ODEProblem, PIDController, Rodas5P, Status, solve
from isocline.solvers.implicit_runge_kutta import (
    GaussLegendre4,
    ImplicitEuler,
    ImplicitMidpoint,
    RadauIIA5,
    Trapezoid,
)
from isocline.solvers.stage_newton import Newton
from isocline.solvers.stage_solvers import FixedPoint


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_point_iteration_finds_the_stages_that_newton_finds(kind):
    problem = ODEProblem(logistic, START, 0.0, 2.0)
    newton = solve(problem, kind(Newton(tol=1e-14)), ConstantSteps(10))
    fixed = solve(problem, kind(FixedPoint(100, tol=1e-15)), ConstantSteps(10))
    torch.testing.assert_close(fixed.final, newton.final, rtol=1e-12, atol=1e-13)
    assert (fixed.stats.jacobians == 0).all()
    assert (newton.stats.jacobians >= 10).all()


def test_one_fixed_point_iteration_of_implicit_euler_is_explicit_eulers_step():
    def shrink(t, y, cond):
        return -y * y

    problem = ODEProblem(shrink, START, 0.0, 1.0)
    once = solve(problem, ImplicitEuler(FixedPoint(1)), ConstantSteps(4))
    assert torch.equal(once.final, solve(problem, Euler(), ConstantSteps(4)).final)
    assert once.stats.nfe.tolist() == [4, 4]


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_fixed_point_iterations_of_implicit_euler_are_partial_sums_of_the_geometric_series(iterations):
    problem = ODEProblem(lambda t, y, cond: -y, START, 0.0, 0.5)
    solution = solve(problem, ImplicitEuler(FixedPoint(iterations)), ConstantSteps(1))
    series = sum((-0.5) ** power for power in range(iterations + 1))
    torch.testing.assert_close(solution.final, START * series, rtol=1e-14, atol=0)
    assert solution.stats.nfe.tolist() == [iterations] * 2
    assert solution.succeeded.all()


def test_fixed_point_iteration_that_does_not_converge_is_a_failure_only_if_a_tolerance_was_given():
    problem = ODEProblem(lambda t, y, cond: -cond * y, START, 0.0, 1.0, cond=torch.tensor([[0.5], [9.0]]).double())
    asked = solve(problem, ImplicitEuler(FixedPoint(60, tol=1e-12)), ConstantSteps(1))
    assert asked.status.tolist() == [int(Status.SUCCESS), int(Status.STEP_FAILED)]
    unasked = solve(problem, ImplicitEuler(FixedPoint(60)), ConstantSteps(1))
    assert unasked.status.tolist() == [int(Status.SUCCESS)] * 2


def test_slow_samples_get_new_jacobians_and_then_converge():
    start = torch.tensor([[2.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    hardness = torch.tensor([0.01, 60.0], dtype=torch.float64)
    with torch.no_grad():
        problem = ODEProblem(van_der_pol, start, 0.0, 0.1, cond=hardness)
        solution = solve(problem, GaussLegendre4(), ConstantSteps(1))
    assert solution.succeeded.all()
    easy, hard = solution.stats.jacobians.tolist()
    assert easy == 1
    assert hard > 1
    assert solution.stats.factorizations.tolist()[0] == 1


def test_a_given_jacobian_is_asked_once_per_step_and_finds_the_same_stages():
    asked = []

    def jacobian(t, y, cond):
        asked.append(float(t))
        return logistic_jacobian(t, y, cond)

    with torch.no_grad():
        given = solve(ODEProblem(logistic, START, 0.0, 2.0, jac=jacobian), RadauIIA5(), ConstantSteps(10))
        found = solve(ODEProblem(logistic, START, 0.0, 2.0), RadauIIA5(), ConstantSteps(10))
    assert asked == pytest.approx([0.2 * step for step in range(10)])
    torch.testing.assert_close(given.final, found.final, rtol=1e-14, atol=1e-15)
    assert given.stats.jacobians.tolist() == [10, 10]


def test_fields_that_only_differences_can_differentiate_work_too():
    def through_numpy(t, y, cond):
        return torch.from_numpy(np.negative(y.detach().numpy()) ** 3)

    with torch.no_grad():
        final = solve(ODEProblem(through_numpy, START, 0.0, 1.0), RadauIIA5(), ConstantSteps(8)).final
    torch.testing.assert_close(final, START / (1 + 2 * START.square()).sqrt(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("kind", [Trapezoid])
def test_methods_that_start_with_a_slope_evaluate_it_once(kind):
    calls = []

    def field(t, y, cond):
        calls.append(float(t))
        return -y

    with torch.no_grad():
        solve(ODEProblem(field, START, 0.0, 1.0), kind(FixedPoint(3)), ConstantSteps(4))
    assert calls.count(0.0) == 1
    stages = len(kind.tableau.c) - 1
    assert len(calls) == 1 + 4 * 3 * stages == kind(FixedPoint(3)).init_nfe + 4 * kind(FixedPoint(3)).nfe_per_step


def test_a_start_that_is_not_finite_fails_alone():
    start = torch.tensor([[0.2], [float("nan")], [float("inf")]], dtype=torch.float64)
    with torch.no_grad():
        solution = solve(ODEProblem(logistic, start, 0.0, 1.0), RadauIIA5(), ConstantSteps(2))
        alone = solve(ODEProblem(logistic, start[:1], 0.0, 1.0), RadauIIA5(), ConstantSteps(2))
    assert solution.succeeded.tolist() == [True, False, False]
    assert torch.equal(solution.final[:1], alone.final)


def test_stage_solvers_refuse_senseless_options():
    with pytest.raises(ValueError, match="iterations=0"):
        Newton(iterations=0)
    with pytest.raises(ValueError, match=r"tol=-1\.0"):
        FixedPoint(tol=-1.0)


@pytest.mark.parametrize("stepper", [ImplicitEuler(), ImplicitMidpoint()])
def test_a_field_that_differentiates_by_its_argument_can_be_stepped_implicitly(stepper):
    """As Hamiltonian networks do: they make a leaf of an argument that requires no grad."""

    def field(t, y, cond):
        with torch.enable_grad():
            point = y if y.requires_grad else y.detach().requires_grad_()
            return torch.autograd.grad(-(point**3).sum(), point, create_graph=True)[0]

    y0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    found = solve(ODEProblem(field, y0, 0.0, 1.0), stepper, ConstantSteps(200)).final
    torch.testing.assert_close(found, 1 / (1 / y0 + 3), rtol=2e-2, atol=0)


@pytest.mark.parametrize("stepper", [ImplicitMidpoint(), Kvaerno5(), Rodas5P()], ids=lambda s: type(s).__name__)
def test_derivatives_by_backpropagation_leave_no_graph_where_nothing_requires_grad(stepper):
    weight = torch.tensor(1.0, dtype=torch.float64)

    def field(t, y, cond):
        # Sorting has no rule on dual numbers.
        return -weight * torch.sort(y, 1).values

    y0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    controller = ConstantSteps(4) if stepper.error_order is None else PIDController(1e-6, 1e-6)
    assert not solve(ODEProblem(field, y0, 0.0, 1.0), stepper, controller).final.requires_grad
    weight.requires_grad_()
    final = solve(ODEProblem(field, y0, 0.0, 1.0), stepper, controller).final
    (found,) = torch.autograd.grad(final.sum(), weight)
    assert float(found) == pytest.approx(-3 * math.exp(-1), rel=0.05)
