"""Gradients with respect to t0, t1 and save times, against closed forms and differences."""

import math

import pytest
import torch

from isocline.solvers import (
    RK4,
    ConstantSteps,
    EulerMaruyama,
    Event,
    FixedGrid,
    ODEProblem,
    PIDController,
    SaveAt,
    SDEProblem,
    Tsit5,
    solve,
)
from isocline.solvers.gradient import (
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
    InterpolatedAdjoint,
)

F64 = torch.float64
METHODS = [Backpropagation(), DiscreteAdjoint(), CheckpointedAdjoint(), BacksolveAdjoint(), InterpolatedAdjoint()]
TIGHT = PIDController(1e-11, 1e-11)
JOINT = PIDController(1e-11, 1e-11, joint=True)


def times(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=F64, requires_grad=True)


def growth(t, y, cond):
    """``y(t) = y0 (1 + t²)^{c/2} / (1 + t0²)^{c/2}``: ``dy/dt = c t y / (1 + t²)``."""
    return cond * expand(t / (1 + t * t)) * y


def expand(t):
    return t.reshape(-1, 1)


def exact(y0, cond, t0, t1):
    return y0 * ((1 + expand(t1) ** 2) / (1 + expand(t0) ** 2)) ** (cond / 2)


Y0 = torch.tensor([[0.5], [1.0], [-0.7]], dtype=F64)
COND = torch.tensor([[1.0], [2.0], [-3.0]], dtype=F64)


@pytest.mark.parametrize("controller", [TIGHT, ConstantSteps(60)])
@pytest.mark.parametrize("gradient", METHODS)
def test_every_sample_has_a_derivative_in_its_own_start_and_end(gradient, controller):
    t0, t1 = times(0.0, 0.1, 1.2), times(1.0, 1.5, 0.2)
    solution = solve(ODEProblem(growth, Y0, t0, t1, COND), Tsit5(), controller, gradient=gradient)
    found = torch.autograd.grad(solution.final.sin().sum(), [t0, t1])
    wanted = torch.autograd.grad(exact(Y0, COND, t0, t1).sin().sum(), [t0, t1])
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("controller", [TIGHT, JOINT, ConstantSteps(60)], ids=["own", "joint", "grid"])
@pytest.mark.parametrize("gradient", METHODS)
def test_shared_times_and_save_times_have_derivatives(gradient, controller):
    t0, t1, ts = times(0.1), times(1.1), times(0.9, 0.3, 0.1, 1.1)
    solution = solve(ODEProblem(growth, Y0, t0, t1, COND), Tsit5(), controller, SaveAt(ts=ts), gradient=gradient)
    weights = torch.linspace(1, 2, 12, dtype=F64).reshape(4, 3, 1)
    found = torch.autograd.grad((solution.ys * weights).sum(), [t0, ts])
    states = torch.stack([exact(Y0, COND, t0, t) for t in ts])
    wanted = torch.autograd.grad((states * weights).sum(), [t0, ts])
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-6)


def test_the_points_of_a_grid_move_with_its_ends():
    t0, t1 = times(0.1), times(1.1)
    problem = ODEProblem(growth, Y0, t0, t1, COND)
    solution = solve(problem, Tsit5(), ConstantSteps(20), SaveAt(steps=True), gradient=DiscreteAdjoint())
    shares = torch.linspace(0, 1, 21, dtype=F64)
    states = torch.stack([exact(Y0, COND, t0, t0 + share * (t1 - t0)) for share in shares])
    assert torch.allclose(solution.ys, states, rtol=1e-8)
    weights = torch.linspace(1, 2, 63, dtype=F64).reshape(21, 3, 1)
    found = torch.autograd.grad((solution.ys * weights).sum(), [t0, t1])
    wanted = torch.autograd.grad((states * weights).sum(), [t0, t1])
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-6)


@pytest.mark.parametrize("gradient", METHODS[:3])
def test_second_derivatives_in_times_and_mixed_ones_are_right(gradient):
    t0, t1, y0 = times(0.2), times(1.1), Y0.clone().requires_grad_()

    def hessian(final):
        first = torch.autograd.grad(final.sin().sum(), [t0, t1, y0], create_graph=True)
        rows = [torch.autograd.grad(value.sum(), [t0, t1, y0], retain_graph=True) for value in first]
        return [value for row in rows for value in row]

    solution = solve(ODEProblem(growth, y0, t0, t1, COND), Tsit5(), ConstantSteps(40), gradient=gradient)
    for value, other in zip(hessian(solution.final), hessian(exact(y0, COND, t0, t1)), strict=True):
        assert torch.allclose(value, other, rtol=1e-6, atol=1e-8)


def test_values_are_unchanged_and_calls_are_counted():
    plain = solve(ODEProblem(growth, Y0, 0.1, 1.1, COND), Tsit5(), ConstantSteps(9))
    t0, t1 = times(0.1), times(1.1)
    problem = ODEProblem(growth, Y0, t0, t1, COND)
    solution = solve(problem, Tsit5(), ConstantSteps(9), gradient=Backpropagation())
    assert torch.allclose(solution.ys, plain.ys, rtol=1e-14)
    assert (solution.stats.nfe == plain.stats.nfe + 4).all()


def test_a_sample_that_an_event_stopped_does_not_depend_on_the_end():
    t1 = times(2.0)
    event = Event(lambda t, y, cond: y[:, 0] - 0.5)
    y0 = torch.tensor([[1.0], [20.0]], dtype=F64)
    problem = ODEProblem(lambda t, y, cond: -y, y0, 0.0, t1)
    solution = solve(problem, Tsit5(), TIGHT, event=event, gradient=DiscreteAdjoint())
    first = torch.autograd.grad(solution.final[0, 0], t1, retain_graph=True)[0]
    second = torch.autograd.grad(solution.final[1, 0], t1)[0]
    assert abs(first) < 1e-12
    assert second == pytest.approx(-20 * math.exp(-2), rel=1e-8)


def test_a_sample_that_failed_does_not_spoil_the_derivative_of_the_others():
    t1 = times(1.0)
    y0 = torch.tensor([[0.5], [2.0]], dtype=F64)
    problem = ODEProblem(lambda t, y, cond: y * y, y0, 0.0, t1)
    solution = solve(problem, Tsit5(), PIDController(1e-9, 1e-9), gradient=DiscreteAdjoint())
    assert solution.succeeded.tolist() == [True, False]
    # y = y0 / (1 - y0 t), dy/dt = y².
    assert torch.autograd.grad(solution.final[0, 0], t1)[0] == pytest.approx(1.0, rel=1e-6)


def test_the_derivative_of_a_random_path_in_time_is_refused():
    problem = SDEProblem(
        lambda t, y, c: -y, lambda t, y, c: y, torch.ones(2, 1), 0.0, times(1.0), generator=torch.Generator()
    )
    with pytest.raises(ValueError, match="derivative in its times"):
        solve(problem, EulerMaruyama(), ConstantSteps(4), gradient=Backpropagation())


@pytest.mark.parametrize("gradient", METHODS)
def test_the_end_of_a_grid_that_is_the_span_s_up_to_rounding_is_the_span_s(gradient):
    grid, t1 = [0.0, 0.1, 0.2, 0.1 * 3], times(0.3)
    assert grid[-1] != t1.item()
    problem = ODEProblem(lambda t, y, c: -y, torch.ones(1, 1, dtype=F64), 0.0, t1)
    solution = solve(problem, RK4(), FixedGrid(grid), gradient=gradient)
    (found,) = torch.autograd.grad(solution.final.sum(), t1)
    assert float(found) == pytest.approx(-math.exp(-0.3), rel=1e-5)


def test_where_a_sample_stopped_moves_with_the_end_of_its_span_unless_an_event_ended_it():
    t1 = times(2.0, 0.5)
    event = Event(lambda t, y, c: y[:, 0] - 0.5)
    problem = ODEProblem(lambda t, y, c: -y, torch.ones(2, 1, dtype=F64), 0.0, t1)
    solution = solve(problem, Tsit5(), TIGHT, event=event, gradient=DiscreteAdjoint())
    (found,) = torch.autograd.grad(solution.stopped_at.sum(), t1)
    assert found.tolist() == [0.0, 1.0]
