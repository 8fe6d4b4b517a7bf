"""ESDIRK steppers: tableaus, orders, stability, dense output, Newton's iteration, independence, failures, gradients."""

import math

import numpy as np
import pytest
import spiral
import torch
from rooted_trees import worst_residual
from stiff_problems import PROTHERO_ROBINSON, van_der_pol

from isocline.solvers import (
    TRBDF2,
    ConstantSteps,
    KenCarp4,
    Kvaerno3,
    Kvaerno5,
    ODEProblem,
    PIDController,
    SaveAt,
    SolverError,
    Status,
    solve,
    solve_strict,
)
from isocline.solvers.jacobian import Derivative
from isocline.solvers.newton import NewtonSettings

KINDS = [TRBDF2, Kvaerno3, KenCarp4, Kvaerno5]


def matrix(table):
    count = len(table.c)
    a = np.zeros((count, count))
    for stage, row in enumerate(table.a):
        a[stage, :stage] = row
    a[range(1, count), range(1, count)] = table.gamma
    return a


@pytest.mark.parametrize("kind", KINDS)
def test_tableaus_fulfil_the_order_conditions_and_those_of_their_embedded_method(kind):
    table = kind.tableau
    a = matrix(table)
    for b, order in ((a[-1], table.order), (a[-1] - table.error, table.error_order - 1)):
        for low in range(1, order + 1):
            assert worst_residual(b, a, a, low) < 1e-13
    assert worst_residual(a[-1], a, a, table.order + 1) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_error_falls_with_the_nominal_order(kind):
    counts = [40, 56, 80]
    errors = [spiral.worst_error(kind(), count) for count in counts]
    assert spiral.slope(errors, counts) == pytest.approx(kind.tableau.order, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_output_converges_and_costs_nothing(kind):
    counts, times = [10, 14, 20], torch.linspace(0.05, 1.9, 31).double()
    wanted = torch.stack([spiral.exact(float(t)) for t in times])
    errors = []
    for count in counts:
        with torch.no_grad():
            dense = solve(spiral.problem(), kind(), ConstantSteps(count), SaveAt(times))
            end = solve(spiral.problem(), kind(), ConstantSteps(count))
        assert torch.equal(dense.stats.nfe, end.stats.nfe)
        errors.append(float((dense.ys - wanted).abs().max()))
    assert spiral.slope(errors, counts) > min(kind.tableau.order, 4) - 0.35


def stability(kind, z):
    problem = ODEProblem(lambda t, y, rate: rate[:, None] * y, torch.ones(len(z), 1, dtype=z.dtype), 0.0, 1.0, z)
    with torch.no_grad():
        return solve(problem, kind(), ConstantSteps(1)).final[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_methods_are_l_stable(kind):
    axis = torch.logspace(-3, 7, 400, dtype=torch.float64)
    assert (stability(kind, torch.complex(torch.zeros_like(axis), axis)).abs() <= 1 + 1e-9).all()
    far = stability(kind, torch.tensor([-1e6, -1e9], dtype=torch.float64)).abs()
    assert far[0] < 2e-4
    assert far[1] < 1e-3 * far[0] + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_of_a_linear_equation_is_the_stability_function_of_the_tableau(kind):
    z = torch.tensor([-0.5, -3.0, -40.0], dtype=torch.float64)
    a = matrix(kind.tableau)
    ones = np.ones(len(a))
    wanted = [1 + x * a[-1] @ np.linalg.solve(np.eye(len(a)) - x * a, ones) for x in z.tolist()]
    np.testing.assert_allclose(stability(kind, z).numpy(), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stiff_equation_is_solved_with_steps_of_thousands_of_time_constants(kind):
    problem = PROTHERO_ROBINSON.problem()
    with torch.no_grad():
        solution = solve(problem, kind(), ConstantSteps(100))
    assert solution.succeeded.all()
    assert PROTHERO_ROBINSON.error(solution.final[0]) < 2e-4


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_bit_for_bit_what_it_is_alone(kind):
    mu = torch.logspace(-1, 3, 5, dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(5, 1)
    control = PIDController(1e-4, 1e-6)

    def run(rows):
        with torch.no_grad():
            return solve(ODEProblem(van_der_pol, y0[rows], 0.0, 10.0, mu[rows]), kind(), control, SaveAt([3.0, 10.0]))

    together = run(slice(None))
    assert together.succeeded.all()
    for sample in range(5):
        alone = run([sample])
        assert torch.equal(alone.ys[:, 0], together.ys[:, sample])
        assert alone.stats.nfe[0] == together.stats.nfe[sample]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32_and_meets_a_loose_tolerance(kind):
    problem = ODEProblem(spiral.spiral, spiral.START.float(), 0.0, 2.0)
    with torch.no_grad():
        solution = solve(problem, kind(), PIDController(1e-4, 1e-6))
        grid = solve(problem, kind(), ConstantSteps(100))
    for found in (solution, grid):
        assert found.final.dtype == torch.float32
        assert found.succeeded.all()
        torch.testing.assert_close(found.final.double(), spiral.exact(2.0), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_short_steps_in_float32_keep_the_digits_of_slopes(kind):
    # A slope found as the difference of two states would be off by eps / (hγ), 1e-3 here, and an event with it.
    def slopes(dtype):
        y0 = torch.tensor([[1.0, 0.5]], dtype=dtype)
        problem = ODEProblem(lambda t, y, cond: torch.stack([y[:, 1], -y[:, 0]], 1), y0, 0.0, 1e-4)
        stepper = kind()
        t0, t1 = (torch.tensor(t, dtype=torch.float64) for t in (0.0, 1e-4))
        with torch.no_grad():
            return stepper.step(problem, t0, t1, y0, stepper.init(problem, t0, y0)).carry.slope

    torch.testing.assert_close(slopes(torch.float32).double(), slopes(torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_needs_one_jacobian_and_one_factorization_for_all_its_stages(kind):
    calls = []

    def jac(t, y, cond):
        calls.append(len(y))
        return torch.diag_embed(-2e4 * y)

    problem = ODEProblem(lambda t, y, cond: -1e4 * y * y, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0, jac=jac)
    with torch.no_grad():
        solution = solve(problem, kind(), PIDController(1e-6, 1e-9))
    tried = int(solution.stats.accepted[0] + solution.stats.rejected[0])
    assert len(calls) == int(solution.stats.jacobians[0]) == int(solution.stats.factorizations[0]) == tried
    assert float(solution.final) == pytest.approx(1 / 10001, rel=1e-3)


def test_an_adaptive_solve_sets_how_exact_the_iteration_is():
    # The same small steps, so that only the iteration differs.
    def work(rtol, stepper):
        with torch.no_grad():
            stats = solve(spiral.problem(), stepper, PIDController(rtol, rtol, dt0=0.05, dt_max=0.05)).stats
        assert (stats.rejected == 0).all()
        return float(stats.nfe.sum() / stats.accepted.sum()) - Kvaerno5.nfe_per_step

    loose = work(1e-2, Kvaerno5())
    assert work(1e-6, Kvaerno5()) > 3 * loose
    assert work(1e-2, Kvaerno5(NewtonSettings(1e-6, 1e-6))) > 3 * loose


def stiff_decay(t, y, cond):
    return -cond[:, :1] * (y - torch.cos(t)[..., None])


def wrong_jacobian(t, y, cond):
    """The right one times the second condition."""
    return (-cond[:, :1] * cond[:, 1:])[..., None]


def test_an_iteration_that_does_not_converge_ends_its_sample_and_no_other():
    cond = torch.tensor([[1e3, 1.0], [1e3, -1.0]], dtype=torch.float64)
    y0, control = torch.ones(2, 1, dtype=torch.float64), PIDController(1e-4, 1e-6, dt0=0.1, dt_min=0.05)
    problem = ODEProblem(stiff_decay, y0, 0.0, 1.0, cond, jac=wrong_jacobian)
    alone = ODEProblem(stiff_decay, y0[:1], 0.0, 1.0, cond[:1], jac=wrong_jacobian)
    with torch.no_grad():
        solution = solve(problem, Kvaerno5(), control)
        single = solve(alone, Kvaerno5(), control)
        with pytest.raises(SolverError, match=r"sample 1 at t=0 after 0 steps .*Newton's iteration did not converge"):
            solve_strict(problem, Kvaerno5(), control)
    assert solution.status.tolist() == [Status.SUCCESS, Status.STEP_FAILED]
    assert torch.equal(solution.final[0], single.final[0])
    assert solution.final[1].isnan().all()


def test_an_iteration_that_does_not_converge_takes_smaller_steps_where_it_may():
    k = 100.0
    cond = torch.tensor([[k, -1.0]], dtype=torch.float64)
    problem = ODEProblem(stiff_decay, torch.ones(1, 1, dtype=torch.float64), 0.0, 0.5, cond, jac=wrong_jacobian)
    with torch.no_grad():
        solution = solve(problem, Kvaerno3(), PIDController(1e-4, 1e-6))
    assert solution.succeeded.all()
    assert solution.stats.rejected[0] > 0
    # Of the initial 1 / (k² + 1) off the smooth solution nothing is left.
    exact = (k * k * math.cos(0.5) + k * math.sin(0.5)) / (k * k + 1)
    assert float(solution.final) == pytest.approx(exact, abs=1e-4)


def test_on_a_grid_a_sample_that_fails_is_named_with_its_time():
    cond = torch.tensor([[1e3, 1.0], [1e3, -1.0]], dtype=torch.float64)
    problem = ODEProblem(stiff_decay, torch.ones(2, 1, dtype=torch.float64), 0.0, 1.0, cond, jac=wrong_jacobian)
    with torch.no_grad(), pytest.raises(SolverError, match=r"1 of 2 samples failed: sample 1 at t=0\.1"):
        solve_strict(problem, Kvaerno3(), ConstantSteps(10))


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_grid_stages_that_the_first_jacobian_does_not_solve_get_their_own(kind):
    # Steps of half a unit through the fast arcs of the oscillation: the Jacobian at their start is of no use.
    mu = torch.tensor([0.1, 1.0], dtype=torch.float64)
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(2, 1)

    def run(rows):
        with torch.no_grad():
            return solve(ODEProblem(van_der_pol, start[rows], 0.0, 20.0, mu[rows]), kind(), ConstantSteps(40))

    both = run(slice(None))
    assert both.succeeded.all()
    assert both.stats.jacobians[0] == 40
    assert both.stats.jacobians[1] > 40
    for sample in range(2):
        alone = run([sample])
        assert torch.equal(alone.final[0], both.final[sample])
        assert alone.stats.nfe[0] == both.stats.nfe[sample]
        assert alone.stats.jacobians[0] == both.stats.jacobians[sample]


def test_a_jacobian_that_is_not_finite_ends_its_sample_and_no_other():
    cond = torch.tensor([[1e3, 1.0], [1e3, math.nan]], dtype=torch.float64)
    y0, control = torch.ones(2, 1, dtype=torch.float64), PIDController(1e-4, 1e-6)
    problem = ODEProblem(stiff_decay, y0, 0.0, 1.0, cond, jac=wrong_jacobian)
    alone = ODEProblem(stiff_decay, y0[:1], 0.0, 1.0, cond[:1], jac=wrong_jacobian)
    with torch.no_grad():
        solution, single = solve(problem, Kvaerno3(), control), solve(alone, Kvaerno3(), control)
    assert solution.status[0] == Status.SUCCESS
    assert solution.status[1] in (Status.STEP_FAILED, Status.NON_FINITE)
    assert torch.equal(solution.final[0], single.final[0])


@pytest.mark.parametrize("derivative", [Derivative.DUAL, Derivative.REVERSE, Derivative.DIFFERENCES])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_the_step_agree_with_finite_differences(kind, derivative):
    y0 = torch.tensor([[1.5, 0.1]], dtype=torch.float64, requires_grad=True)
    mu = torch.tensor([20.0], dtype=torch.float64, requires_grad=True)

    def end(y, m):
        return solve(ODEProblem(van_der_pol, y, 0.0, 0.5, m), kind(derivative=derivative), ConstantSteps(5)).final

    assert torch.autograd.gradcheck(end, (y0, mu), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_recording_a_gradient_hardly_moves_the_solution():
    mu = torch.tensor([100.0], dtype=torch.float64)
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    plain = solve(ODEProblem(van_der_pol, start, 0.0, 10.0, mu), Kvaerno5(), PIDController(1e-6, 1e-8)).final
    leaf = start.clone().requires_grad_()
    recorded = solve(ODEProblem(van_der_pol, leaf, 0.0, 10.0, mu), Kvaerno5(), PIDController(1e-6, 1e-8)).final
    torch.testing.assert_close(recorded.detach(), plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("key", ["rtol", "share", "iterations"])
def test_settings_that_are_not_positive_are_refused_by_name(key):
    with pytest.raises(ValueError, match=f"{key}=0; expected a positive number"):
        NewtonSettings(**{key: 0})
