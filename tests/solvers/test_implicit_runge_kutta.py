"""Implicit Runge–Kutta steppers on fixed steps: orders, stability, invariants, samples by themselves, dense output."""

import math

import pytest
import torch
from implicit_methods import (
    GAUSS,
    KINDS,
    START,
    logistic,
    logistic_exact,
    logistic_jacobian,
    per_sample,
    slope,
    van_der_pol,
)

from isocline.solvers import RK4, ConstantSteps, Euler, ODEProblem, SaveAt, solve
from isocline.solvers.implicit_runge_kutta import (
    SDIRK2,
    GaussLegendre4,
    GaussLegendre6,
    ImplicitEuler,
    ImplicitMidpoint,
    RadauIIA3,
    RadauIIA5,
    Trapezoid,
)
from isocline.solvers.stage_newton import Newton
from isocline.solvers.stage_solvers import FixedPoint

L_STABLE = [ImplicitEuler, SDIRK2, RadauIIA3, RadauIIA5]


@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, 0.0)], ids=["forward", "reversed"])
@pytest.mark.parametrize("kind", KINDS)
def test_error_falls_with_the_nominal_order(kind, span):
    counts = [60, 84, 120] if kind.tableau.order < 3 else [20, 28, 40] if kind.tableau.order < 6 else [12, 16, 24]
    # The two errors of opposite sign of Radau IIA 3 cancel forward unless steps are small.
    counts = [80, 112, 160] if kind is RadauIIA3 else counts
    errors = []
    for count in counts:
        with torch.no_grad():
            solution = solve(ODEProblem(logistic, START, *span, jac=logistic_jacobian), kind(), ConstantSteps(count))
        assert solution.succeeded.all()
        errors.append(float((solution.final - logistic_exact(span)).abs().max()))
    assert slope(errors, counts) == pytest.approx(kind.tableau.order, abs=0.2)


def pade(z, top, bottom):
    """Padé approximation of exp with numerator of degree ``top``."""

    def part(degree, other, x):
        total = 0
        for k in range(degree + 1):
            share = math.comb(degree, k) * math.factorial(degree + other - k) / math.factorial(degree + other)
            total = total + share * x**k
        return total

    return part(top, bottom, z) / part(bottom, top, -z)


@pytest.mark.parametrize(
    ("kind", "degrees"),
    [
        (ImplicitEuler, (0, 1)),
        (ImplicitMidpoint, (1, 1)),
        (Trapezoid, (1, 1)),
        (RadauIIA3, (1, 2)),
        (RadauIIA5, (2, 3)),
        (GaussLegendre4, (2, 2)),
        (GaussLegendre6, (3, 3)),
    ],
)
def test_stability_function_is_the_pade_approximation_for_complex_states_too(kind, degrees):
    rates = torch.tensor([[-1.0 + 2j], [0.3j], [-40.0 + 10j], [0.5 + 0j]], dtype=torch.complex128)
    problem = ODEProblem(lambda t, y, cond: cond * y, torch.ones_like(rates), 0.0, 1.0, cond=rates)
    final = solve(problem, kind(), ConstantSteps(1)).final
    expected = torch.tensor([[pade(complex(z), *degrees)] for z in rates[:, 0].tolist()], dtype=torch.complex128)
    torch.testing.assert_close(final, expected, rtol=1e-10, atol=1e-12)


def prothero_robinson(t, y, cond):
    """Prothero and Robinson (1974): dy/dt = λ (y - sin t) + cos t."""
    t = per_sample(t, y)
    return -1e6 * (y - torch.sin(t)) + torch.cos(t)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stable_methods_follow_the_smooth_solution_of_a_stiff_equation(kind):
    problem = ODEProblem(prothero_robinson, torch.zeros(1, 1, dtype=torch.float64), 0.0, 10.0)
    solution = solve(problem, kind(), ConstantSteps(100))
    assert solution.succeeded.all()
    assert abs(float(solution.final) - math.sin(10.0)) < 2e-3


def test_explicit_methods_fail_on_the_stiff_equation_that_implicit_ones_solve():
    problem = ODEProblem(prothero_robinson, torch.zeros(1, 1, dtype=torch.float64), 0.0, 10.0)
    for stepper in (Euler(), RK4()):
        final = solve(problem, stepper, ConstantSteps(100)).final
        assert not final.isfinite().all() or final.abs() > 1e6


@pytest.mark.parametrize("kind", KINDS)
def test_l_stable_methods_damp_a_stiff_transient_in_one_step_and_the_others_keep_it(kind):
    start = torch.ones(1, 1, dtype=torch.float64)
    final = float(solve(ODEProblem(prothero_robinson, start, 0.0, 0.1), kind(), ConstantSteps(1)).final)
    error = abs(final - math.sin(0.1))
    if kind in L_STABLE:
        assert error < 2e-3
    else:
        assert 0.9 < error < 1.1


@pytest.mark.parametrize("kind", GAUSS)
def test_gauss_methods_keep_a_quadratic_invariant_and_radau_loses_it(kind):
    def rigid_body(t, y, cond):
        """Euler's equations: the squared length of the momentum is conserved."""
        turn = y * torch.tensor([1.0, 1 / 2, 1 / 3], dtype=y.dtype)
        return torch.linalg.cross(y, turn)

    start = torch.tensor([[0.6, 0.1, 1.2]], dtype=torch.float64)

    def drift(stepper):
        final = solve(ODEProblem(rigid_body, start, 0.0, 30.0), stepper, ConstantSteps(60)).final
        return float((final.square().sum() - start.square().sum()).abs())

    with torch.no_grad():
        assert drift(kind()) < 1e-11
        assert drift(RadauIIA3()) > 1e-5


@pytest.mark.parametrize("solver", [Newton(), FixedPoint(200, 1e-12)], ids=["newton", "fixed_point"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_bit_for_bit_what_it_is_alone(kind, solver):
    hardness = torch.tensor([0.1, 1.0, 8.0, 50.0], dtype=torch.float64)
    start = torch.tensor([[2.0, 0.0], [0.5, 0.5], [2.0, -0.5], [1.5, 0.0]], dtype=torch.float64)
    if isinstance(solver, FixedPoint):
        hardness = hardness.clamp(max=1.5)
    together = solve(ODEProblem(van_der_pol, start, 0.0, 0.8, cond=hardness), kind(solver), ConstantSteps(6))
    for row in range(len(start)):
        part = slice(row, row + 1)
        problem = ODEProblem(van_der_pol, start[part], 0.0, 0.8, cond=hardness[part])
        alone = solve(problem, kind(solver), ConstantSteps(6))
        assert torch.equal(alone.final, together.final[part])
        assert torch.equal(alone.stats.nfe, together.stats.nfe[part])
        assert torch.equal(alone.status, together.status[part])


@pytest.mark.parametrize("kind", KINDS)
def test_times_may_be_each_samples_own(kind):
    t0, t1 = torch.tensor([0.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    own = solve(ODEProblem(logistic, START, t0, t1), kind(), ConstantSteps(8)).final
    for row in range(2):
        problem = ODEProblem(logistic, START[row : row + 1], float(t0[row]), float(t1[row]))
        shared = solve(problem, kind(), ConstantSteps(8)).final
        torch.testing.assert_close(own[row : row + 1], shared, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32(kind):
    with torch.no_grad():
        solution = solve(ODEProblem(logistic, START.float(), 0.0, 2.0), kind(), ConstantSteps(10))
        exact = solve(ODEProblem(logistic, START, 0.0, 2.0), kind(), ConstantSteps(10)).final
    assert solution.final.dtype == torch.float32
    assert solution.succeeded.all()
    torch.testing.assert_close(solution.final.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_output_costs_nothing_and_converges(kind):
    order = {ImplicitEuler: 1, ImplicitMidpoint: 1, RadauIIA3: 2, SDIRK2: 2, Trapezoid: 2}.get(kind, 3)
    order = 2 if kind is GaussLegendre4 else order
    inside = torch.tensor([0.37, 1.01, 1.93], dtype=torch.float64)
    exact = torch.stack([logistic_exact((0.0, float(t))) for t in inside])
    errors, counts = [], [40, 80, 160]
    for count in counts:
        with torch.no_grad():
            problem = ODEProblem(logistic, START, 0.0, 2.0, jac=logistic_jacobian)
            solution = solve(problem, kind(), ConstantSteps(count), SaveAt(ts=inside))
        assert solution.stats.nfe.max() <= count * 6 * len(kind.tableau.c)
        errors.append(float((solution.ys - exact).abs().max()))
    assert slope(errors, counts) > order - 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_dense_output_ends_where_the_step_ends(kind):
    t0, t1 = torch.zeros((), dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    stepper, problem = kind(), ODEProblem(logistic, START, 0.0, 0.5)
    result = stepper.step(problem, t0, t1, START, stepper.init(problem, t0, START))
    torch.testing.assert_close(result.dense.evaluate(torch.ones_like(t1)), result.y1, rtol=1e-13, atol=1e-14)
    assert torch.equal(result.dense.evaluate(torch.zeros_like(t1)), START)
    rows = torch.tensor([1, 0, 1])
    theta = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    found = result.dense.evaluate(theta, rows)
    for place, (row, share) in enumerate(zip(rows.tolist(), theta, strict=True)):
        torch.testing.assert_close(found[place], result.dense.evaluate(share)[row], rtol=1e-14, atol=0)
