"""Events: times, states and gradients against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torchdiffeq
from drop_in.equations import DOUBLE, double
from torch.testing import assert_close

from isocline.solvers import SolverError, odeint, odeint_adjoint, odeint_event

G = 9.81


def fall(t, state):
    _, speed = state
    return speed, torch.full_like(speed, -G)


def hits_floor(t, state):
    return state[0]


def circle(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], -1)


@pytest.mark.parametrize("interface", [odeint, odeint_adjoint])
def test_a_falling_ball_hits_the_floor_at_the_right_time_with_the_right_gradient(interface):
    height, speed, t0 = (double(value)[0].requires_grad_() for value in (2.0, 1.0, 0.3))
    more = {"adjoint_params": ()} if interface is odeint_adjoint else {}
    time, (heights, speeds) = odeint_event(
        fall, (height, speed), t0, event_fn=hits_floor, odeint_interface=interface, **more
    )
    root = (speed**2 + 2 * G * height).sqrt()
    exact = t0 + (speed + root) / G
    assert_close(time, exact)
    assert_close(heights, torch.stack([height, torch.zeros_like(height)]), rtol=0, atol=1e-9)
    assert_close(speeds[-1], -root)
    for ours, true in ((time, exact), (speeds[-1], -root)):
        found = torch.autograd.grad(ours, (height, speed, t0), retain_graph=True, allow_unused=True)
        wanted = torch.autograd.grad(true, (height, speed, t0), retain_graph=True, allow_unused=True)
        for a, b in zip(found, wanted, strict=True):
            assert_close(torch.zeros(()).double() if a is None else a, torch.zeros(()).double() if b is None else b)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4", "rodas5p", "explicit_adams"])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_event_is_found_by_every_kind_of_method(method, reverse):
    options = {"step_size": 0.01} if method in ("rk4", "gl4", "explicit_adams") else {}
    time, y = odeint_event(
        circle, double(1.0, 0.0), double(0.0), event_fn=lambda t, y: y[0] - 0.5, reverse_time=reverse, method=method,
        options=options,
    )  # fmt: skip
    assert time.shape == ()
    assert_close(time, double(-math.pi / 3 if reverse else math.pi / 3)[0], rtol=1e-5, atol=0)
    assert y.shape == (2, 2)


def test_of_several_conditions_the_first_ends_the_solve():
    time, y = odeint(
        circle, double(1.0, 0.0), double(0.0, 1.0), event_fn=lambda t, y: torch.stack([y[0] - 0.5, y[1] + 0.5])
    )
    assert_close(time, double(math.pi / 6)[0], rtol=1e-6, atol=0)
    assert_close(y[-1][1], double(-0.5)[0], rtol=0, atol=1e-9)


def test_a_condition_that_is_zero_at_the_start_counts_from_where_it_is_not():
    """torchdiffeq ends where it started."""
    for conditions in (lambda t, y: y[1], lambda t, y: torch.stack([y[1], y[0] + 2])):
        time, _ = odeint(circle, double(1.0, 0.0), double(0.0, 1.0), event_fn=conditions)
        assert_close(time, double(math.pi)[0], rtol=1e-6, atol=0)


def test_such_a_condition_hides_no_other_that_changes_sign_in_the_first_step():
    def conditions(t, y):
        return torch.stack([y[1], y[0] - 0.9])

    start, options = double(1.0, 0.0), {"step_size": 0.5}
    time, _ = odeint(circle, start, double(0.0, 1.0), event_fn=conditions, method="rk4", options=options)
    assert_close(time, double(0.9).arccos()[0], rtol=1e-3, atol=0)


def test_per_sample_each_row_has_its_own_event():
    levels = torch.linspace(0.1, 0.9, 5, dtype=DOUBLE)
    y0 = torch.stack([torch.ones_like(levels), torch.zeros_like(levels), levels], -1)

    def field(t, y):
        return torch.cat([circle(t, y[:, :2]), torch.zeros_like(y[:, 2:])], 1)

    time, y = odeint(field, y0, double(0.0, 1.0), event_fn=lambda t, y: y[:, 0] - y[:, 2], options={"per_sample": True})
    assert_close(time, torch.arccos(levels), rtol=1e-6, atol=0)
    assert y.shape == (2, 5, 3)


def test_gradients_pass_through_a_learned_condition():
    level = double(0.5)[0].requires_grad_()
    time, _ = odeint_event(circle, double(1.0, 0.0), double(0.0), event_fn=lambda t, y: y[0] - level)
    (grad,) = torch.autograd.grad(time, level)
    assert_close(grad, -1 / (1 - level.detach() ** 2).sqrt(), rtol=1e-6, atol=0)


def test_events_that_cannot_be_found_are_errors():
    start, t = double(1.0, 0.0), double(0.0, 1.0)

    def never(t, y):
        return y[0] + 9

    with pytest.raises(SolverError, match=r"euler: stopped at t=20 .*no event"):
        odeint(circle, start, t, event_fn=never, method="euler", options={"step_size": 0.001})
    with pytest.raises(AssertionError, match="max_num_steps exceeded"):
        odeint(circle, start, t, event_fn=never, options={"max_num_steps": 50})
    with pytest.raises(ValueError, match=r"len\(t\) == 2"):
        odeint(circle, start, double(0.0, 1.0, 2.0), event_fn=hits_floor)
    with pytest.raises(AssertionError, match="step_size"):
        odeint(circle, start, t, event_fn=hits_floor, method="rk4")
    with pytest.raises(ValueError, match="scipy_solver"):
        odeint(circle, start, t, event_fn=hits_floor, method="scipy_solver")


@pytest.mark.parametrize(("method", "options"), [("dopri5", {}), ("rk4", {"step_size": 0.1})])
def test_event_functions_are_told_the_time_in_torchdiffeqs_precision(method, options):
    def told(solve):
        dtypes = []
        solve(
            circle, torch.tensor([1.0, 0.0]), double(0.0, 1.0), method=method, options=options,
            event_fn=lambda t, y: dtypes.append(t.dtype) or y[0] - 0.5,
        )  # fmt: skip
        # The first call there is one with the caller's own t.
        return set(dtypes[1:])

    assert told(odeint) == told(torchdiffeq.odeint)
