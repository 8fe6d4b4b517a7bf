"""Adams' methods: weights, orders on even and uneven grids, starts, evaluations, dense output, independence."""

import itertools
import math

import numpy as np
import pytest
import torch
import torchdiffeq

from isocline.solvers import RK4, ConstantSteps, FixedGrid, ODEProblem, SaveAt, Status, solve
from isocline.solvers.multistep import AdamsBashforth, AdamsBashforthMoulton
from isocline.solvers.polynomial import integrated_lagrange
from isocline.solvers.stage_solvers import FixedPoint

STEPPERS = [*(AdamsBashforth(order) for order in range(1, 6)), *(AdamsBashforthMoulton(order) for order in range(2, 6))]
START = torch.tensor([[0.1, 0.4], [0.7, 0.25]], dtype=torch.float64)


def label(stepper):
    return f"{type(stepper).__name__}{stepper.order}"


def per_sample(t, y):
    return t if t.ndim == 0 else t.reshape(-1, *([1] * (y.ndim - 1)))


def swing(t, y, cond):
    """dy/dt = -2 y cos t, solved by y(0) exp(-2 sin t)."""
    return -2 * torch.cos(per_sample(t, y)) * y


def swing_exact(span):
    return START * math.exp(-2 * (math.sin(span[1]) - math.sin(span[0])))


def decay(t, y, cond):
    """dy/dt = -(1 + t) y², solved by 1 / (1/y(0) + t + t²/2): the leading error does not change its sign."""
    return -(1 + per_sample(t, y)) * y * y


def decay_exact(t):
    return 1 / (1 / START + t + t * t / 2)


def slope(errors, counts):
    return float(np.polyfit(-np.log(counts), np.log(errors), 1)[0])


def uneven(count, span):
    """Steps that alternate by a factor of 1.5 on a grid that is itself bent."""
    share = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    share[1:-1:2] += 0.2 / count
    share = share + 0.1 * torch.sin(math.pi * share) * (1 - share)
    grid = span[0] + (span[1] - span[0]) * share
    grid[0], grid[-1] = span
    return grid


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([0, -1], [3 / 2, -1 / 2]),
        ([0, -1, -2], [23 / 12, -16 / 12, 5 / 12]),
        ([0, -1, -2, -3], [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
        ([0, -1, -2, -3, -4], [1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720]),
        ([1, 0], [1 / 2, 1 / 2]),
        ([1, 0, -1], [5 / 12, 8 / 12, -1 / 12]),
        ([1, 0, -1, -2], [9 / 24, 19 / 24, -5 / 24, 1 / 24]),
        ([1, 0, -1, -2, -3], [251 / 720, 646 / 720, -264 / 720, 106 / 720, -19 / 720]),
    ],
)
def test_weights_of_constant_steps_are_the_classical_ones(nodes, weights):
    found = integrated_lagrange(torch.tensor(nodes, dtype=torch.float64)).sum(-1)
    np.testing.assert_allclose(found, weights, rtol=0, atol=1e-14)


def test_weights_of_twelve_slopes_are_still_accurate():
    # The oldest Adams-Bashforth weight of order 12 and the newest Adams-Moulton weight differ in their sign only.
    found = integrated_lagrange(-torch.arange(12, dtype=torch.float64)).sum(-1)
    assert float(found[-1]) == pytest.approx(-262747265 / 958003200, rel=1e-12)
    ahead = integrated_lagrange(1 - torch.arange(12, dtype=torch.float64)).sum(-1)
    assert float(ahead[0]) == pytest.approx(262747265 / 958003200, rel=1e-12)


@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, 0.0)], ids=["forward", "reversed"])
@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_error_falls_with_the_nominal_order(stepper, span, even):
    counts = [200, 280, 400] if stepper.order < 5 else [400, 560, 800]
    errors = []
    for count in counts:
        grid = ConstantSteps(count) if even else FixedGrid(uneven(count, span))
        final = solve(ODEProblem(decay, decay_exact(span[0]), *span), stepper, grid).final
        errors.append(float((final - decay_exact(span[1])).abs().max()))
    assert slope(errors, counts) == pytest.approx(stepper.order, abs=0.2)


@pytest.mark.parametrize("stepper", [AdamsBashforth(7), AdamsBashforthMoulton(8)], ids=label)
def test_higher_orders_start_with_a_method_that_does_not_lower_them(stepper):
    span, counts, errors = (0.0, 2.0), [40, 57, 80], []
    for count in counts:
        final = solve(ODEProblem(swing, START, *span), stepper, ConstantSteps(count)).final
        errors.append(float((final - swing_exact(span)).abs().max()))
    assert slope(errors, counts) > stepper.order - 0.4


@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_polynomials_of_the_order_are_integrated_exactly_on_any_grid(stepper):
    degree = int(stepper.order)
    problem = ODEProblem(lambda t, y, cond: degree * t ** (degree - 1) + 0 * y, START, 1.0, 2.0)
    grid = [1.0, 1.1, 1.15, 1.3, 1.31, 1.5, 1.7, 1.75, 1.9, 2.0]
    final = solve(problem, stepper, FixedGrid(grid)).final
    torch.testing.assert_close(final, START + 2.0**degree - 1, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", range(1, 6))
def test_adams_bashforth_costs_one_evaluation_per_step_after_its_start(order):
    calls = []

    def field(t, y, cond):
        calls.append(1)
        return -y

    def cost(count):
        calls.clear()
        solution = solve(ODEProblem(field, START, 0.0, 1.0), AdamsBashforth(order), ConstantSteps(count))
        assert solution.stats.nfe.tolist() == [len(calls)] * 2
        return len(calls)

    assert cost(30) - cost(20) == 10
    assert cost(20) < 20 + 7 * order


@pytest.mark.parametrize("corrections", [1, 3])
@pytest.mark.parametrize("order", range(2, 6))
def test_each_correction_costs_one_evaluation_and_the_end_another(order, corrections):
    calls = []

    def field(t, y, cond):
        calls.append(1)
        return -y

    def cost(count):
        calls.clear()
        stepper = AdamsBashforthMoulton(order, FixedPoint(corrections))
        solution = solve(ODEProblem(field, START, 0.0, 1.0), stepper, ConstantSteps(count))
        assert solution.stats.nfe.tolist() == [len(calls)] * 2
        return len(calls)

    assert cost(30) - cost(20) == 10 * (corrections + 1)


def test_a_converged_corrector_solves_the_implicit_formula():
    # Adams-Moulton of order 2 is the trapezoidal rule: growth (1 + z/2) / (1 - z/2) per step.
    stepper = AdamsBashforthMoulton(2, FixedPoint(100, tol=1e-15))
    solution = solve(ODEProblem(lambda t, y, cond: -y, START, 0.0, 1.0), stepper, ConstantSteps(10))
    torch.testing.assert_close(solution.final, START * (0.95 / 1.05) ** 10, rtol=1e-13, atol=0)
    assert solution.succeeded.all()


def test_a_corrector_that_does_not_converge_fails_its_sample_alone():
    stepper = AdamsBashforthMoulton(3, FixedPoint(50, tol=1e-12))
    rates = torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    problem = ODEProblem(lambda t, y, cond: -cond * y, START, 0.0, 1.0, cond=rates)
    solution = solve(problem, stepper, ConstantSteps(10))
    assert solution.status.tolist() == [int(Status.SUCCESS), int(Status.STEP_FAILED)]
    alone = solve(problem.at_rows(torch.tensor([0])), stepper, ConstantSteps(10))
    assert torch.equal(alone.final, solution.final[:1])
    assert torch.equal(alone.stats.nfe, solution.stats.nfe[:1])


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_error_is_no_larger_than_that_of_torchdiffeq_with_as_many_slopes(method):
    ts = torch.linspace(0, 5, 401, dtype=torch.float64)
    peer = torchdiffeq.odeint(
        lambda t, y: swing(t, y, None), START, ts, method=method, options={"max_order": 5}, rtol=1e-9, atol=1e-9
    )[-1]
    stepper = AdamsBashforth(4) if method == "explicit_adams" else AdamsBashforthMoulton(5, FixedPoint(4))
    final = solve(ODEProblem(swing, START, 0.0, 5.0), stepper, FixedGrid(ts)).final
    exact = swing_exact((0.0, 5.0))
    assert (final - exact).abs().max() < 1.1 * (peer - exact).abs().max()


def logistic(t, y, cond):
    return cond * y * (1 - y)


@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_each_sample_is_bit_for_bit_what_it_is_alone(stepper):
    start = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5], dtype=torch.float64)
    rates = torch.logspace(-1, 1, 7, dtype=torch.float64)[:, None]
    ends = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
    for t1 in (1.5, ends):
        problem = ODEProblem(logistic, start, 0.0, t1, cond=rates)
        together = solve(problem, stepper, ConstantSteps(12)).final
        for row in range(7):
            alone = solve(problem.at_rows(torch.tensor([row])), stepper, ConstantSteps(12)).final
            assert torch.equal(alone, together[row : row + 1])


@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_times_may_be_each_samples_own(stepper):
    t0, t1 = torch.tensor([0.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    own = solve(ODEProblem(swing, START, t0, t1), stepper, ConstantSteps(20)).final
    for row in range(2):
        problem = ODEProblem(swing, START[row : row + 1], float(t0[row]), float(t1[row]))
        shared = solve(problem, stepper, ConstantSteps(20)).final
        torch.testing.assert_close(own[row : row + 1], shared, rtol=1e-12, atol=0)


@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_float32_stays_float32(stepper):
    final = solve(ODEProblem(swing, START.float(), 0.0, 2.0), stepper, ConstantSteps(40)).final
    exact = solve(ODEProblem(swing, START, 0.0, 2.0), stepper, ConstantSteps(40)).final
    assert final.dtype == torch.float32
    torch.testing.assert_close(final.double(), exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("own_times", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_gradients_agree_with_finite_differences(stepper, own_times):
    rate = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    start = START.clone().requires_grad_()
    t1 = torch.tensor([1.0, 0.7], dtype=torch.float64) if own_times else 1.0

    def final(start, rate):
        return solve(ODEProblem(lambda t, y, cond: rate * y * (1 - y * y), start, 0.0, t1), stepper, ConstantSteps(7))

    assert torch.autograd.gradcheck(lambda *args: final(*args).final, (start, rate))


@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_dense_output_has_the_order_of_the_method_and_costs_nothing_after_the_start(stepper):
    times = torch.tensor([2.03, 3.17, 4.71], dtype=torch.float64)
    exact = torch.stack([swing_exact((0.0, float(t))) for t in times])
    errors, counts = [], [200, 280, 400]
    for count in counts:
        problem = ODEProblem(swing, START, 0.0, 5.0)
        solution = solve(problem, stepper, ConstantSteps(count), SaveAt(ts=times))
        errors.append(float((solution.ys - exact).abs().max()))
        assert torch.equal(solution.stats.nfe, solve(problem, stepper, ConstantSteps(count)).stats.nfe)
    assert slope(errors, counts) > stepper.order - 0.3


@pytest.mark.parametrize("own_times", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
def test_dense_output_ends_where_the_step_ends(stepper, own_times):
    shape = (2,) if own_times else ()
    problem, carry, y = ODEProblem(swing, START, 0.0, 1.0), None, START
    times = [torch.full(shape, 0.1 * step, dtype=torch.float64) for step in range(7)]
    carry = stepper.init(problem, times[0], y)
    for t0, t1 in itertools.pairwise(times):
        result = stepper.step(problem, t0, t1, y, carry)
        start, y, carry = y, result.y1, result.carry
    torch.testing.assert_close(result.dense.evaluate(torch.ones((), dtype=torch.float64)), y, rtol=1e-13, atol=0)
    assert torch.equal(result.dense.evaluate(torch.zeros((), dtype=torch.float64)), start)
    rows, theta = torch.tensor([1, 0, 1]), torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    found = result.dense.evaluate(theta, rows)
    for place, (row, share) in enumerate(zip(rows.tolist(), theta, strict=True)):
        torch.testing.assert_close(found[place], result.dense.evaluate(share)[row], rtol=1e-14, atol=0)


def test_a_starter_can_be_chosen():
    with_rk4 = solve(ODEProblem(swing, START, 0.0, 2.0), AdamsBashforth(2, starter=RK4()), ConstantSteps(20))
    assert with_rk4.stats.nfe.tolist() == [19 + 4] * 2


@pytest.mark.parametrize(("kind", "order"), [(AdamsBashforth, 0), (AdamsBashforthMoulton, 1), (AdamsBashforth, 13)])
def test_orders_out_of_range_are_refused(kind, order):
    with pytest.raises(ValueError, match=f"order={order}"):
        kind(order)


@pytest.mark.parametrize("stepper", STEPPERS, ids=label)
@pytest.mark.parametrize("t0", [1.0, torch.tensor([0.0, 1.0], dtype=torch.float64)], ids=["shared", "own"])
def test_a_span_that_is_a_point_leads_nowhere(stepper, t0):
    solution = solve(ODEProblem(swing, START, t0, torch.ones(2, dtype=torch.float64)), stepper, ConstantSteps(8))
    assert solution.succeeded.all()
    torch.testing.assert_close(solution.final[1], START[1], rtol=0, atol=0)
    shared = solve(ODEProblem(swing, START, 1.0, 1.0), stepper, ConstantSteps(8))
    torch.testing.assert_close(shared.final, START, rtol=0, atol=0)
