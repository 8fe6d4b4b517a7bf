"""Implicit Runge–Kutta steppers on fixed steps: tableaus, orders, stability, stage solvers, gradients, independence."""

import math

import numpy as np
import pytest
import torch

from isocline.solvers import RK4, ConstantSteps, Euler, ODEProblem, SaveAt, Status, solve
from isocline.solvers.implicit_runge_kutta import (
    SDIRK2,
    GaussLegendre2,
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

KINDS = [
    ImplicitEuler,
    ImplicitMidpoint,
    Trapezoid,
    SDIRK2,
    RadauIIA3,
    GaussLegendre4,
    RadauIIA5,
    GaussLegendre6,
]
L_STABLE = [ImplicitEuler, SDIRK2, RadauIIA3, RadauIIA5]
GAUSS = [GaussLegendre2, GaussLegendre4, GaussLegendre6]
START = torch.tensor([[0.1, 0.4], [0.7, 0.25]], dtype=torch.float64)


def per_sample(t, y):
    return t if t.ndim == 0 else t.reshape(-1, *([1] * (y.ndim - 1)))


def logistic(t, y, cond):
    """dy/dt = (1 + cos t) y (1 - y), solved by 1 / (1 + c exp(-t - sin t))."""
    return (1 + torch.cos(per_sample(t, y))) * y * (1 - y)


def logistic_jacobian(t, y, cond):
    return torch.diag_embed((1 + torch.cos(per_sample(t, y))) * (1 - 2 * y))


def logistic_exact(span):
    rise = span[1] - span[0] + math.sin(span[1]) - math.sin(span[0])
    return 1 / (1 + (1 / START - 1) * math.exp(-rise))


def slope(errors, counts):
    x, y = -np.log(counts), np.log(errors)
    return float(np.polyfit(x, y, 1)[0])


@pytest.mark.parametrize("kind", GAUSS)
def test_gauss_nodes_and_weights_are_those_of_gauss_legendre_quadrature(kind):
    x, w = np.polynomial.legendre.leggauss(len(kind.tableau.c))
    np.testing.assert_allclose(kind.tableau.c, (1 + x) / 2, rtol=0, atol=1e-15)
    np.testing.assert_allclose(kind.tableau.b, w / 2, rtol=0, atol=1e-15)
    assert len(set(kind.tableau.c)) == len(kind.tableau.c)


def collocation(nodes):
    """``a_ij = ∫_0^{c_i} ℓ_j`` by NumPy's polynomials."""
    rows = []
    for other, node in enumerate(nodes):
        basis = np.polynomial.Polynomial([1.0])
        for root in (c for k, c in enumerate(nodes) if k != other):
            basis = basis * np.polynomial.Polynomial([-root, 1.0]) / (node - root)
        basis = basis.integ()
        rows.append([basis(c) for c in nodes])
    return np.array(rows).T


@pytest.mark.parametrize("kind", [*GAUSS, RadauIIA3, RadauIIA5])
def test_gauss_and_radau_methods_are_collocation_at_their_nodes(kind):
    np.testing.assert_allclose(kind.tableau.a, collocation(kind.tableau.c), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [RadauIIA3, RadauIIA5])
def test_radau_nodes_are_the_zeros_of_a_difference_of_legendre_polynomials(kind):
    # P_s - P_(s-1) on [-1, 1] vanishes at Radau's nodes, the right end among them.
    count = len(kind.tableau.c)
    zeros = np.polynomial.legendre.legroots([0] * (count - 1) + [-1, 1])
    np.testing.assert_allclose(kind.tableau.c, (1 + np.sort(zeros.real)) / 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_quadrature_conditions_hold_to_the_order_and_no_further(kind):
    table = kind.tableau
    for power in range(1, table.order + 1):
        total = sum(b * c ** (power - 1) for b, c in zip(table.b, table.c, strict=True))
        assert total == pytest.approx(1 / power, abs=1e-14)
    total = sum(b * c**table.order for b, c in zip(table.b, table.c, strict=True))
    assert abs(total - 1 / (table.order + 1)) > 1e-5


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


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_point_iteration_finds_the_stages_that_newton_finds(kind):
    problem = ODEProblem(logistic, START, 0.0, 2.0)
    newton = solve(problem, kind(Newton(tol=1e-14)), ConstantSteps(10))
    fixed = solve(problem, kind(FixedPoint(100, tol=1e-15)), ConstantSteps(10))
    torch.testing.assert_close(fixed.final, newton.final, rtol=1e-12, atol=1e-13)
    assert (fixed.stats.jacobians == 0).all()
    assert (newton.stats.jacobians >= 10).all()


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


def van_der_pol(t, y, cond):
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, cond * ((1 - x * x) * v - x)], 1)


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


def test_a_start_that_is_not_finite_fails_alone():
    start = torch.tensor([[0.2], [float("nan")], [float("inf")]], dtype=torch.float64)
    with torch.no_grad():
        solution = solve(ODEProblem(logistic, start, 0.0, 1.0), RadauIIA5(), ConstantSteps(2))
        alone = solve(ODEProblem(logistic, start[:1], 0.0, 1.0), RadauIIA5(), ConstantSteps(2))
    assert solution.succeeded.tolist() == [True, False, False]
    assert torch.equal(solution.final[:1], alone.final)


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


def test_stage_solvers_refuse_senseless_options():
    with pytest.raises(ValueError, match="iterations=0"):
        Newton(iterations=0)
    with pytest.raises(ValueError, match=r"tol=-1\.0"):
        FixedPoint(tol=-1.0)
