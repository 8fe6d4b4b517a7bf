"""Rosenbrock steppers: tableaus, orders, stability, dense output, independence, failures, gradients."""

import math

import numpy as np
import pytest
import spiral
import torch
from rooted_trees import worst_residual
from stiff_problems import PROTHERO_ROBINSON, van_der_pol

from isocline.solvers import (
    ConstantSteps,
    ODEProblem,
    PIDController,
    Rodas3P,
    Rodas4,
    Rodas5P,
    SaveAt,
    SolverError,
    Status,
    Tsit5,
    solve,
    solve_strict,
)
from isocline.solvers.jacobian import Derivative

KINDS = [Rodas3P, Rodas4, Rodas5P]
DENSE_ORDER = {Rodas3P: 3, Rodas4: 4, Rodas5P: 5}


def matrices(table):
    """α, Γ and β = α + Γ of the classical form, from that without matrix products."""
    count = len(table.b)
    a, c = np.zeros((2, count, count))
    for stage in range(count):
        a[stage, :stage], c[stage, :stage] = table.a[stage], table.c[stage]
    inverse = np.eye(count) / table.gamma - c
    gamma = np.linalg.inv(inverse)
    return a @ gamma, gamma


@pytest.mark.parametrize("kind", KINDS)
def test_tableaus_fulfil_the_order_conditions_and_those_of_their_embedded_method(kind):
    table = kind.tableau
    alpha, gamma = matrices(table)
    for weights, order in ((table.b, table.order), (np.subtract(table.b, table.error), table.error_order - 1)):
        b = np.asarray(weights) @ gamma
        for low in range(1, order + 1):
            assert worst_residual(b, alpha, alpha + gamma, low) < 1e-12
        assert worst_residual(b, alpha, alpha + gamma, order + 1) > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_and_rates_are_the_row_sums(kind):
    alpha, gamma = matrices(kind.tableau)
    np.testing.assert_allclose(kind.tableau.nodes, alpha.sum(1), rtol=0, atol=1e-13)
    np.testing.assert_allclose(kind.tableau.rates, gamma.sum(1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("derivative", [Derivative.DUAL, Derivative.REVERSE])
@pytest.mark.parametrize("kind", KINDS)
def test_error_falls_with_the_nominal_order(kind, derivative):
    counts = [40, 56, 80]
    errors = [spiral.worst_error(kind(derivative), count) for count in counts]
    assert spiral.slope(errors, counts) == pytest.approx(kind.tableau.order, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_dense_output_converges_and_costs_nothing(kind):
    counts, times = [10, 14, 20], torch.linspace(0.05, 1.9, 31).double()
    errors = []
    for count in counts:
        with torch.no_grad():
            solution = solve(spiral.problem(), kind(), ConstantSteps(count), SaveAt(times))
        wanted = torch.stack([spiral.exact(float(t)) for t in times])
        errors.append(float((solution.ys - wanted).abs().max()))
        assert (solution.stats.nfe == kind.init_nfe + count * kind().nfe_per_step).all()
    assert spiral.slope(errors, counts) > min(DENSE_ORDER[kind], kind.tableau.order) - 0.35


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
def test_a_stiff_equation_is_solved_with_steps_on_which_explicit_methods_explode(kind):
    problem, grid = PROTHERO_ROBINSON.problem(), ConstantSteps(100)
    with torch.no_grad():
        assert PROTHERO_ROBINSON.error(solve(problem, kind(), grid).final[0]) < 2e-4
        explicit = solve(problem, Tsit5(), grid).final
    assert not (explicit.abs() < 1e6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_bit_for_bit_what_it_is_alone(kind):
    mu = torch.logspace(-1, 3, 6, dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(6, 1)
    control = PIDController(1e-4, 1e-6)

    def run(rows):
        with torch.no_grad():
            return solve(ODEProblem(van_der_pol, y0[rows], 0.0, 20.0, mu[rows]), kind(), control, SaveAt([3.0, 20.0]))

    together = run(slice(None))
    assert together.succeeded.all()
    for sample in range(6):
        alone = run([sample])
        assert torch.equal(alone.ys[:, 0], together.ys[:, sample])
        assert alone.stats.nfe[0] == together.stats.nfe[sample]
        assert alone.stats.factorizations[0] == together.stats.factorizations[sample]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 9])
def test_independence_holds_for_every_size_of_matrix(width):
    generator = torch.Generator().manual_seed(0)
    y0 = torch.rand(5, width, generator=generator, dtype=torch.float64)
    rate = torch.logspace(0, 4, 5, dtype=torch.float64)

    def field(t, y, rate):
        return -rate[:, None] * (y - y.roll(1, -1).cos()) ** 3 - y

    def run(rows):
        with torch.no_grad():
            return solve(ODEProblem(field, y0[rows], 0.0, 2.0, rate[rows]), Rodas5P(), PIDController(1e-5, 1e-7)).final

    together = run(slice(None))
    for sample in range(5):
        assert torch.equal(run([sample])[0], together[sample])


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32_and_meets_a_loose_tolerance(kind):
    problem = ODEProblem(spiral.spiral, spiral.START.float(), 0.0, 2.0)
    with torch.no_grad():
        solution = solve(problem, kind(), PIDController(1e-4, 1e-6))
    assert solution.final.dtype == torch.float32
    assert solution.succeeded.all()
    torch.testing.assert_close(solution.final.double(), spiral.exact(2.0), rtol=2e-3, atol=2e-3)


def test_complex_states_that_are_not_holomorphic_equal_their_real_parts():
    def complex_field(t, y, cond):
        return -50 * (y - y.conj() * 0.5) + torch.cos(t)

    def real_field(t, y, cond):
        a, b = y.unbind(-1)
        return torch.stack((-25 * a + torch.cos(t), -75 * b), -1)

    start, control = torch.tensor([[1.0, 2.0]], dtype=torch.float64), PIDController(1e-8, 1e-10)
    with torch.no_grad():
        both = solve(ODEProblem(complex_field, torch.view_as_complex(start)[:, None], 0.0, 1.0), Rodas5P(), control)
        parts = solve(ODEProblem(real_field, start, 0.0, 1.0), Rodas5P(), control)
    torch.testing.assert_close(torch.view_as_real(both.final[:, 0]), parts.final, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_reversed_time_returns_to_the_start(kind):
    back = ODEProblem(spiral.spiral, spiral.exact(2.0), 2.0, 0.0)
    with torch.no_grad():
        end = solve(back, kind(), PIDController(1e-8, 1e-10)).final
    torch.testing.assert_close(end, spiral.START, rtol=1e-4, atol=1e-5)


def decay(t, y, cond):
    return -cond[:, :1] * y


def test_a_jacobian_that_is_not_finite_ends_its_sample_and_no_other():
    def jac(t, y, cond):
        return (-cond[:, :1] * cond[:, 1:])[..., None]

    cond = torch.tensor([[3.0, 1.0], [3.0, math.nan]], dtype=torch.float64)
    y0 = torch.ones(2, 1, dtype=torch.float64)
    control = PIDController(1e-6, 1e-8)
    with torch.no_grad():
        solution = solve(ODEProblem(decay, y0, 0.0, 1.0, cond, jac=jac), Rodas5P(), control)
        alone = solve(ODEProblem(decay, y0[:1], 0.0, 1.0, cond[:1], jac=jac), Rodas5P(), control)
        with pytest.raises(SolverError, match=r"sample 1 at t=0 after 0 steps"):
            solve_strict(ODEProblem(decay, y0, 0.0, 1.0, cond, jac=jac), Rodas5P(), control)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE]
    assert torch.equal(solution.final[0], alone.final[0])


def test_a_given_jacobian_is_used_once_a_step_and_changes_nothing_but_rounding():
    calls = []

    def jac(t, y, mu):
        calls.append(len(y))
        x, v = y.unbind(-1)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        rows = (torch.stack((zero, one), -1), torch.stack((-2 * mu * x * v - 1, mu * (1 - x * x)), -1))
        return torch.stack(rows, 1)

    y0, mu = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([50.0], dtype=torch.float64)
    control = PIDController(1e-6, 1e-8)
    with torch.no_grad():
        own = solve(ODEProblem(van_der_pol, y0, 0.0, 60.0, mu, jac=jac), Rodas4(), control)
        found = solve(ODEProblem(van_der_pol, y0, 0.0, 60.0, mu), Rodas4(), control)
    assert len(calls) == int(own.stats.jacobians[0]) == int(own.stats.accepted[0] + own.stats.rejected[0])
    torch.testing.assert_close(own.final, found.final, rtol=1e-5, atol=1e-7)


def test_a_jacobian_of_the_wrong_shape_is_refused_by_shape():
    problem = ODEProblem(
        decay, torch.ones(2, 1), 0.0, 1.0, torch.ones(2, 2), jac=lambda t, y, cond: torch.ones(2, 3, 3)
    )
    with pytest.raises(ValueError, match=r"jac returned shape \(2, 3, 3\); expected \(2, 1, 1\)"):
        solve(problem, Rodas5P(), ConstantSteps(1))


@pytest.mark.parametrize("derivative", [Derivative.DUAL, Derivative.REVERSE])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_the_step_agree_with_finite_differences(kind, derivative):
    y0 = torch.tensor([[1.5, 0.1]], dtype=torch.float64, requires_grad=True)
    mu = torch.tensor([20.0], dtype=torch.float64, requires_grad=True)

    def end(y, m):
        return solve(ODEProblem(van_der_pol, y, 0.0, 0.5, m), kind(derivative), ConstantSteps(5)).final

    assert torch.autograd.gradcheck(end, (y0, mu), eps=1e-6, atol=1e-7, rtol=1e-6)


def test_a_gradient_of_an_adaptive_stiff_solve_is_that_of_the_solution():
    # y' = -k (y - cos t): the sensitivity of the smooth solution to k is about -sin(t) / k².
    rate = torch.tensor([1e4], dtype=torch.float64, requires_grad=True)

    def field(t, y, k):
        return -k[:, None] * (y - torch.cos(t)[..., None])

    problem = ODEProblem(field, torch.ones(1, 1, dtype=torch.float64), 0.0, 1.0, rate)
    solution = solve(problem, Rodas5P(), PIDController(1e-9, 1e-12))
    k = 1e4
    exact = (k * k * math.cos(1.0) + k * math.sin(1.0)) / (k * k + 1)
    assert float(solution.final.detach()) == pytest.approx(exact, abs=1e-8)
    (found,) = torch.autograd.grad(solution.final.sum(), rate)
    c, s = math.cos(1.0), math.sin(1.0)
    wanted = ((2 * k * c + s) * (k * k + 1) - (k * k * c + k * s) * 2 * k) / (k * k + 1) ** 2
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_refined_stages_are_counted_and_are_those_of_the_plain_step_where_the_matrix_is_well_rounded():
    with torch.no_grad():
        plain, refined = (solve(spiral.problem(), Rodas5P(refinements=count), ConstantSteps(20)) for count in (0, 2))
    torch.testing.assert_close(refined.final, plain.final, rtol=1e-13, atol=1e-13)
    assert torch.equal(refined.stats.nfe - plain.stats.nfe, torch.full_like(plain.stats.nfe, 20 * 2 * 8))


def test_refinement_is_refused_where_it_cannot_be_done():
    with pytest.raises(ValueError, match="refinements=-1"):
        Rodas5P(refinements=-1)
    with pytest.raises(ValueError, match="dual numbers"):
        solve(spiral.problem(), Rodas5P(Derivative.REVERSE, refinements=2), ConstantSteps(1))
