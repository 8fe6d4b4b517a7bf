"""Explicit Runge–Kutta steppers: tableaus, orders of convergence, evaluations, dense output."""

import itertools
import math

import pytest
import torch
import torchdiffeq

from isocline.solvers import (
    RK4,
    Bosh3,
    ConstantSteps,
    Dopri5,
    Euler,
    FixedGrid,
    Heun,
    Midpoint,
    ODEProblem,
    PIDController,
    Ralston,
    SaveAt,
    Tsit5,
    solve,
)

STEPPERS = [Euler(), Midpoint(), Heun(), Ralston(), RK4(), Bosh3(), Dopri5(), Tsit5()]
PAIRS = [Bosh3(), Dopri5(), Tsit5()]


def name(stepper):
    return type(stepper).__name__


def logistic(t, y, cond):
    """dy/dt = y (1 - y) + time dependence with a closed form: y = 1 / (1 + c exp(-t - sin t))."""
    rate = 1 + torch.cos(t)
    return (rate if rate.ndim == 0 else rate[:, None]) * y * (1 - y)


def logistic_exact(t, y0):
    return 1 / (1 + (1 / y0 - 1) * torch.exp(-t - torch.sin(t)))


START = torch.tensor([[0.1, 0.4], [0.7, 0.25]], dtype=torch.float64)


def slope(errors, counts):
    """Least-squares slope of log error against log step."""
    x = -torch.tensor(counts, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def swing(t, y, cond):
    """dy/dt = -2 y cos t, y = y(0) exp(-2 sin t): its errors are in the asymptotic regime already at coarse steps."""
    return -2 * torch.cos(t) * y


@pytest.mark.parametrize("stepper", STEPPERS, ids=name)
@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, 0.0)], ids=["forward", "reversed"])
def test_error_falls_with_the_nominal_order(stepper, span):
    t0, t1 = span
    exact = START * math.exp(-2 * (math.sin(t1) - math.sin(t0)))
    counts = [400, 560, 800] if stepper.order < 3 else [80, 112, 160, 224]
    errors = []
    for count in counts:
        final = solve(ODEProblem(swing, START, t0, t1), stepper, ConstantSteps(count)).final
        errors.append(float((final - exact).abs().max()))
    assert slope(errors, counts) == pytest.approx(stepper.order, abs=0.2)


def rooted_trees(order):
    """Rooted trees with ``order`` nodes, each the sorted tuple of its root's subtrees."""

    def forests(nodes, largest):
        if nodes == 0:
            yield ()
        for size in range(1, nodes + 1):
            for tree in rooted_trees(size):
                if largest is None or (size, tree) <= largest:
                    for rest in forests(nodes - size, (size, tree)):
                        yield (tree, *rest)

    return list(forests(order - 1, None))


def density(tree):
    """γ(tree): the number of nodes times the densities of the subtrees; also returns the number of nodes."""
    parts = [density(child) for child in tree]
    nodes = 1 + sum(size for _, size in parts)
    return nodes * math.prod(value for value, _ in parts), nodes


def stage_weights(tree, a):
    """Elementary weight of a tree at every stage, its root not summed."""
    product = torch.ones(len(a), dtype=torch.float64)
    for child in tree:
        product = product * (a @ stage_weights(child, a))
    return product


@pytest.mark.parametrize("stepper", STEPPERS, ids=name)
def test_every_order_condition_of_nonlinear_systems_holds_and_the_next_order_fails(stepper):
    # Hairer, Nørsett, Wanner I, theorem II.2.13: Σ b_i Φ_i(tree) = 1/γ(tree) for all trees of up to p nodes.
    table = stepper.tableau
    a = torch.zeros(len(table.b), len(table.b), dtype=torch.float64)
    for row, values in enumerate(table.a):
        a[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    b = torch.tensor(table.b, dtype=torch.float64)
    embedded = None if table.error is None else b - torch.tensor(table.error, dtype=torch.float64)

    def defect(weights, order):
        return max(abs(float(weights @ stage_weights(t, a)) - 1 / density(t)[0]) for t in rooted_trees(order))

    assert [len(rooted_trees(order)) for order in range(1, 6)] == [1, 1, 2, 4, 9]
    for order in range(1, table.order + 1):
        assert defect(b, order) < 1e-12
    assert defect(b, table.order + 1) > 1e-5
    if embedded is not None:
        for order in range(1, table.error_order):
            assert defect(embedded, order) < 1e-12
        assert defect(embedded, table.error_order) > 1e-5


@pytest.mark.parametrize("stepper", [s for s in STEPPERS if s.error_order], ids=name)
def test_local_error_estimate_has_its_order(stepper):
    y0 = START
    errors, counts = [], [8, 12, 16, 24, 32]
    for count in counts:
        t0, t1 = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.3 + 1 / count, dtype=torch.float64)
        problem = ODEProblem(logistic, y0, 0.3, 1.0)
        result = stepper.step(problem, t0, t1, y0, stepper.init(problem, t0, y0))
        errors.append(float(result.error.abs().max()))
    assert slope(errors, counts) == pytest.approx(stepper.error_order, abs=0.3)


@pytest.mark.parametrize("stepper", STEPPERS, ids=name)
def test_evaluations_are_counted_exactly(stepper):
    calls = itertools.count()

    def field(t, y, cond):
        next(calls)
        return -y

    solution = solve(ODEProblem(field, START, 0.0, 1.0), stepper, ConstantSteps(7))
    made = next(calls)
    per_step = {"Euler": 1, "Midpoint": 2, "Heun": 2, "Ralston": 2, "RK4": 4, "Bosh3": 3, "Dopri5": 6, "Tsit5": 6}
    first = 1 if name(stepper) in ("Bosh3", "Dopri5", "Tsit5") else 0
    assert made == 7 * per_step[name(stepper)] + first
    assert solution.stats.nfe.tolist() == [made, made]
    assert made == stepper.init_nfe + 7 * stepper.nfe_per_step


@pytest.mark.parametrize("stepper", STEPPERS, ids=name)
def test_times_given_to_the_field_are_float64_and_within_the_span(stepper):
    seen = []

    def field(t, y, cond):
        seen.append(t)
        return -y

    solve(ODEProblem(field, START.float(), 1.0, 0.0), stepper, ConstantSteps(3))
    assert all(t.dtype == torch.float64 and t.ndim == 0 for t in seen)
    assert max(seen) == 1.0
    assert min(seen) >= 0.0


@pytest.mark.parametrize("stepper", STEPPERS, ids=name)
def test_dtype_and_shape_of_the_state_are_kept(stepper):
    y0 = torch.rand(2, 3, 4, 4)
    final = solve(ODEProblem(lambda t, y, cond: -y, y0, 0.0, 0.1), stepper, ConstantSteps(2)).final
    assert final.dtype == torch.float32
    assert final.shape == y0.shape


@pytest.mark.parametrize("stepper", STEPPERS, ids=name)
def test_dense_output_converges_with_at_least_the_order_it_claims(stepper):
    # Within a step the order of the interpolant counts: 4 for the pairs of order 5, otherwise Hermite's 3.
    expected = min(stepper.order, 4.0 if stepper.order == 5 else 3.0)
    ts = torch.linspace(0, 2, 38, dtype=torch.float64)[1:-1]
    counts, errors = [16, 24, 32, 48], []
    for count in counts:
        solution = solve(ODEProblem(logistic, START, 0.0, 2.0), stepper, ConstantSteps(count), SaveAt(ts=ts))
        exact = logistic_exact(ts[:, None, None], START)
        errors.append(float((solution.ys - exact).abs().max()))
    assert slope(errors, counts) > expected - 0.25


@pytest.mark.parametrize("stepper", PAIRS, ids=name)
def test_continuous_extension_starts_and_ends_at_the_steps_own_states(stepper):
    table = stepper.tableau
    for row, weight in zip(table.dense, table.b, strict=True):
        assert sum(row) == pytest.approx(weight, abs=1e-12)
    assert sum(row[0] for row in table.dense) == pytest.approx(1.0, abs=1e-12)


def test_fixed_steps_agree_with_torchdiffeq_on_the_same_grid():
    # torchdiffeq calls Kutta's 3/8 rule "rk4"; midpoint and Heun's rule are the same methods as here.
    grid = torch.tensor([0.0, 0.1, 0.25, 0.4, 0.8, 1.0], dtype=torch.float64)
    for stepper, method in ((Euler(), "euler"), (Midpoint(), "midpoint"), (Heun(), "heun2")):
        ours = solve(ODEProblem(logistic, START, 0.0, 1.0), stepper, FixedGrid(grid), SaveAt(steps=True))
        theirs = torchdiffeq.odeint(lambda t, y: logistic(t, y, None), START, grid, method=method)
        torch.testing.assert_close(ours.ys, theirs, rtol=1e-13, atol=1e-14)
    fine = torch.linspace(0, 1, 101, dtype=torch.float64)
    ours = solve(ODEProblem(logistic, START, 0.0, 1.0), RK4(), FixedGrid(fine)).final
    theirs = torchdiffeq.odeint(lambda t, y: logistic(t, y, None), START, fine, method="rk4")[-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("stepper", [Dopri5(), Tsit5()], ids=name)
def test_tight_tolerances_agree_with_torchdiffeq(stepper):
    ts = torch.tensor([0.0, 0.3, 1.1, 2.0], dtype=torch.float64)
    ours = solve(ODEProblem(logistic, START, 0.0, 2.0), stepper, PIDController(rtol=1e-10, atol=1e-12), SaveAt(ts=ts))
    theirs = torchdiffeq.odeint(lambda t, y: logistic(t, y, None), START, ts, method="dopri5", rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.ys, theirs, rtol=1e-8, atol=1e-9)


def test_complex_states_are_integrated():
    y0 = torch.tensor([[1 + 0j], [0 + 2j]], dtype=torch.complex128)
    for controller in (ConstantSteps(50), PIDController(1e-9, 1e-11)):
        final = solve(ODEProblem(lambda t, y, cond: 1j * y, y0, 0.0, math.pi), Tsit5(), controller).final
        torch.testing.assert_close(final, -y0, rtol=1e-6, atol=1e-6)


def test_gradients_pass_through_the_steps():
    rate = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    for controller in (ConstantSteps(40), PIDController(1e-9, 1e-11)):
        final = solve(ODEProblem(lambda t, y, cond: -rate * y, y0, 0.0, 2.0), Dopri5(), controller).final
        by_rate, by_start = torch.autograd.grad(final.sum(), (rate, y0))
        torch.testing.assert_close(by_rate, -2 * torch.exp(-2 * rate) * y0.sum(), rtol=1e-6, atol=0.0)
        torch.testing.assert_close(by_start, torch.exp(-2 * rate).expand(2, 1), rtol=1e-6, atol=0.0)


@torch.no_grad()
def test_dense_output_outlives_the_next_step_unless_buffers_are_kept():
    equation = ODEProblem(lambda t, y, cond: -y, torch.ones(2, 1, dtype=torch.float64), 0.0, 1.0)
    t = torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64)
    half = torch.tensor(0.5, dtype=torch.float64)
    for stepper, lasts in ((Tsit5(), True), (Tsit5().for_one_solve(), False)):
        first = stepper.step(equation, t[0], t[1], equation.y0, stepper.init(equation, t[0], equation.y0))
        middle = first.dense.evaluate(half)
        second = stepper.step(equation, t[1], t[2], first.y1, first.carry)
        assert torch.equal(first.dense.evaluate(half), middle) == lasts
        torch.testing.assert_close(second.dense.evaluate(half), torch.full_like(middle, math.exp(-0.15)))
    assert Tsit5()._kept is None


@torch.no_grad()
def test_a_sample_that_is_done_stays_as_it_is_where_the_field_ends_behind_it():
    ends = torch.tensor([0.5] + [1.0] * 9, dtype=torch.float64)
    longest = ends.max()

    def field(t, y, cond):
        # The midpoint rule does not look at the end of a step, where this is not a number for the first sample.
        return torch.where(t >= cond, torch.nan, -1.0)[:, None] * y

    cond = torch.where(ends < longest, ends, 2.0)
    equation = ODEProblem(field, torch.ones(10, 1, dtype=torch.float64), 0.0, ends, cond, is_separable=False)
    final = solve(equation, Midpoint(), PIDController(1e-4, 1e-4)).final
    torch.testing.assert_close(final[:, 0], torch.exp(-ends), rtol=1e-2, atol=0)
