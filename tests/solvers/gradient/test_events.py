"""Derivatives of event times, and of states there, against closed forms."""

import math

import pytest
import torch

from isocline.solvers import ConstantSteps, Event, ODEProblem, PIDController, Status, Tsit5, solve
from isocline.solvers.gradient import (
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
    InterpolatedAdjoint,
)

F64 = torch.float64
METHODS = [
    None,
    Backpropagation(),
    DiscreteAdjoint(),
    CheckpointedAdjoint(),
    BacksolveAdjoint(),
    InterpolatedAdjoint(),
]
TIGHT = PIDController(1e-10, 1e-10)
GROUND = Event(lambda t, y, cond: y[:, 0], direction=-1)


def fall(y0, gravity, method, controller=TIGHT, t0=0.0):
    """A ball of height and velocity, up to the ground."""

    def field(t, y, cond):
        return torch.stack([y[:, 1], -gravity.expand(len(y))], 1)

    problem = ODEProblem(field, y0, t0, 20.0)
    return solve(problem, Tsit5(), controller, event=GROUND, gradient=method)


def landing(y0, gravity):
    """Time and velocity of the landing."""
    h, v = y0.unbind(1)
    speed = torch.sqrt(v * v + 2 * gravity * h)
    return (v + speed) / gravity, -speed


def leaves(samples=3):
    y0 = torch.tensor([[1.0, 0.5], [3.0, -1.0], [0.2, 2.0]], dtype=F64)[:samples].requires_grad_()
    return y0, torch.tensor(9.81, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_time_and_the_velocity_of_a_landing_have_the_derivatives_of_the_closed_form(method):
    y0, gravity = leaves()
    solution = fall(y0, gravity, method)
    assert (solution.status == int(Status.EVENT)).all()
    for found, wanted in zip((solution.stopped_at, solution.final[:, 1]), landing(y0, gravity), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-9)
        derivatives = torch.autograd.grad(found.sin().sum(), [y0, gravity], retain_graph=True)
        expected = torch.autograd.grad(wanted.sin().sum(), [y0, gravity], retain_graph=True)
        for value, other in zip(derivatives, expected, strict=True):
            assert torch.allclose(value, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS[:4])
def test_second_derivatives_pass_through_the_event(method):
    y0, gravity = leaves()

    def hessian(values):
        first = torch.autograd.grad(values.sin().sum(), [y0, gravity], create_graph=True)
        return [torch.autograd.grad(part.sum(), [y0, gravity], retain_graph=True) for part in first]

    solution = fall(y0, gravity, method)
    for found, wanted in zip((solution.stopped_at, solution.final[:, 1]), landing(y0, gravity), strict=True):
        for row, other_row in zip(hessian(found), hessian(wanted), strict=True):
            for value, other in zip(row, other_row, strict=True):
                assert torch.allclose(value, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "controller", [PIDController(1e-10, 1e-10, joint=True), ConstantSteps(500)], ids=["joint", "grid"]
)
def test_a_single_sample_under_one_clock_has_them_too(method, controller):
    y0, gravity = leaves(1)
    solution = fall(y0, gravity, method, controller)
    found = torch.autograd.grad(solution.stopped_at.sum(), [y0, gravity])
    wanted = torch.autograd.grad(landing(y0, gravity)[0].sum(), [y0, gravity])
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_ball_that_bounces_is_differentiated_through_every_bounce(method):
    """Each bounce keeps the share e of the speed s: it flies for 2 e s / g, and stops from there on with e s."""
    y0, gravity = leaves()
    keep = torch.tensor(0.7, dtype=F64, requires_grad=True)
    state, total = y0, torch.zeros(3, dtype=F64)
    for _ in range(3):
        solution = fall(state, gravity, method)
        total = total + solution.stopped_at
        state = torch.stack([torch.zeros(3, dtype=F64), -keep * solution.final[:, 1]], 1)
    first, speed = landing(y0, gravity)
    wanted = first - 2 * speed * (keep + keep**2) / gravity
    assert torch.allclose(total, wanted, rtol=1e-8)
    found = torch.autograd.grad(total.sum(), [y0, gravity, keep])
    expected = torch.autograd.grad(wanted.sum(), [y0, gravity, keep])
    for value, other in zip(found, expected, strict=True):
        assert torch.allclose(value, other, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_moving_threshold_and_a_start_that_is_differentiated(method):
    """y = y0 e^(c (t - t0)) meets y = b + t: c is per sample, b is the condition's own; t0 moves the time by itself."""
    b = torch.tensor(3.0, dtype=F64, requires_grad=True)
    t0 = torch.tensor([0.0, 0.2, -0.1], dtype=F64, requires_grad=True)
    rate = torch.tensor([[1.0], [0.8], [1.4]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0], [0.5]], dtype=F64, requires_grad=True)
    event = Event(lambda t, y, cond: y[:, 0] - b - t)
    problem = ODEProblem(lambda t, y, cond: cond * y, y0, t0, 9.0, rate)
    times = solve(problem, Tsit5(), TIGHT, event=event, gradient=method or DiscreteAdjoint()).stopped_at
    found = torch.autograd.grad(times.sum(), [b, t0, rate, y0])
    # Implicit differentiation of c(t) = y0 e^(k (t - t0)) - b - t.
    t = times.detach()
    k, start, grown = rate.detach()[:, 0], t0.detach(), (rate * y0).detach()[:, 0]
    growth = torch.exp(k * (t - start))
    slope = grown * growth - 1
    level = y0.detach()[:, 0] * growth
    assert torch.allclose(level, 3.0 + t, rtol=1e-9)
    wanted = [
        (1 / slope).sum(),
        grown * growth / slope,
        (-(t - start) * level / slope)[:, None],
        (-growth / slope)[:, None],
    ]
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-6)


def test_samples_without_an_event_depend_on_nothing_through_it():
    y0 = torch.tensor([[1.0], [0.2]], dtype=F64, requires_grad=True)
    event = Event(lambda t, y, cond: y[:, 0] - 0.5)
    problem = ODEProblem(lambda t, y, cond: -y, y0, 0.0, 3.0)
    solution = solve(problem, Tsit5(), TIGHT, event=event, gradient=DiscreteAdjoint())
    assert solution.status.tolist() == [int(Status.EVENT), int(Status.SUCCESS)]
    (by_y0,) = torch.autograd.grad(solution.stopped_at.sum() + solution.final.sum(), y0)
    # t* = log 2 y0 and y(t*) = 1/2; the other sample ends as y0 e^-3.
    assert by_y0.flatten().tolist() == pytest.approx([1.0, math.exp(-3)], rel=1e-8)


def test_a_condition_that_jumps_ends_the_solve_at_a_constant_time():
    y0 = torch.tensor([[-1.0]], dtype=F64, requires_grad=True)
    event = Event(lambda t, y, cond: torch.where(y[:, 0] > -0.5, 1.0, -1.0))
    problem = ODEProblem(lambda t, y, cond: torch.ones_like(y), y0, 0.0, 3.0)
    solution = solve(problem, Tsit5(), TIGHT, event=event, gradient=DiscreteAdjoint())
    assert solution.stopped_at.item() == pytest.approx(0.5)
    assert not solution.stopped_at.requires_grad
    assert torch.autograd.grad(solution.final.sum(), y0)[0].item() == pytest.approx(1.0)


def test_a_condition_without_slope_at_its_zero_gives_no_infinite_derivative():
    """(y + 1/2)³ grows like nothing where it changes sign: the time is a constant there."""
    y0 = torch.tensor([[-1.0]], dtype=F64, requires_grad=True)
    event = Event(lambda t, y, cond: (y[:, 0] + 0.5).pow(3))
    problem = ODEProblem(lambda t, y, cond: torch.ones_like(y), y0, 0.0, 3.0)
    solution = solve(problem, Tsit5(), ConstantSteps(12), event=event, gradient=DiscreteAdjoint())
    assert solution.stopped_at.item() == pytest.approx(0.5, abs=1e-5)
    assert torch.autograd.grad(solution.final.sum(), y0)[0].isfinite().all()
