"""Every option of a method, callbacks, and what is said about arguments that cannot be used."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torchdiffeq
from drop_in.equations import DOUBLE, Counted, decay, double, smooth
from torch.testing import assert_close

from isocline.solvers import odeint, odeint_adjoint
from isocline.solvers.drop_in import InvalidArgumentError
from isocline.solvers.drop_in.methods import _METHODS

Y0, T = double(1.0, -0.4), double(0.0, 1.0)
IMPLICIT = [name for name, method in _METHODS.items() if method.is_whole and "max_iters" in method.extra]


def steps_of(func=smooth, t=T, y0=Y0, **kwargs):
    """Starts, lengths and fates of the steps that the callbacks are told."""
    field, told = Counted(func), []
    for name in ("callback_step", "callback_accept_step", "callback_reject_step"):
        setattr(field, name, lambda t0, y, dt, name=name: told.append((name, float(t0), float(dt), y)))
    odeint(field, y0, t, **kwargs)
    return told, field


def test_a_step_size_leaves_no_sliver_and_ends_at_the_end():
    field = Counted(smooth)
    field.callback_step = lambda t0, y, dt: lengths.append(float(dt))
    for end, count in ((1.0, 10), (0.3, 3), (0.35, 4)):
        lengths = []
        odeint(field, Y0, torch.tensor([0.0, end]), method="euler", options={"step_size": 0.1})
        assert len(lengths) == count
        assert sum(lengths) == pytest.approx(end, rel=1e-6)


def test_a_grid_of_ones_own_is_asked_for_once_and_followed():
    asked = []

    def grid(func, y0, t):
        asked.append((y0, t))
        return double(0.0, 0.1, 0.5, 1.0)

    field = Counted(smooth)
    odeint(field, Y0, T, method="euler", options={"grid_constructor": grid})
    assert field.times == [0.0, 0.1, 0.5]
    assert len(asked) == 1
    assert_close(asked[0][0], Y0)
    with pytest.raises(AssertionError, match="grid_constructor returned"):
        odeint(smooth, Y0, T, method="euler", options={"grid_constructor": lambda f, y, t: double(0.0, 0.9)})
    with pytest.raises(ValueError, match="mutually exclusive"):
        odeint(smooth, Y0, T, method="euler", options={"grid_constructor": grid, "step_size": 0.1})


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("method", ["euler", "rk4", "implicit_euler", "trapezoid", "explicit_adams"])
def test_perturb_keeps_times_inside_of_the_steps(method, dtype):
    plain, perturbed = Counted(decay), Counted(decay)
    y0, t = torch.ones(2, dtype=dtype), double(0.0, 1.0)
    a, b = (
        odeint(field, y0, t, method=method, options={"step_size": 0.25, "perturb": perturb})
        for field, perturb in ((plain, False), (perturbed, True))
    )
    corners = {0.0, 0.25, 0.5, 0.75, 1.0}
    assert corners & set(plain.times)
    assert not corners & set(perturbed.times)
    assert_close(a, b, rtol=1e-6, atol=0)


def test_steps_end_at_step_t_and_start_anew_at_jump_t():
    def jump(t, y):
        return torch.where(t < 0.3, 1.0, -2.0) + 0 * y

    y0, t = double(0.0), double(0.0, 1.0)
    plain = Counted(jump)
    odeint(plain, y0, t)
    for reverse in (False, True):
        times = t.flip(0) if reverse else t
        start = double(-1.1) if reverse else y0
        told, field = steps_of(jump, times, start, options={"jump_t": double(0.3), "step_t": double(0.6)})
        assert {0.3, 0.6} <= {round(step[1], 12) for step in told if step[0] == "callback_accept_step"}
        assert not any(step[0] == "callback_reject_step" for step in told)
        assert len(field.times) < len(plain.times)
        y = odeint(jump, start, times, options={"jump_t": double(0.3)})
        assert_close(y[-1], y0 if reverse else double(-1.1), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="twice"):
        odeint(jump, y0, t, options={"jump_t": double(0.3), "step_t": double(0.3)})


def test_the_norm_is_handed_the_state_as_the_caller_knows_it_and_rules_the_steps():
    shapes = []

    def norm(factor):
        def of(error):
            shapes.append(tuple(part.shape for part in error))
            return factor * max(part.abs().max() for part in error)

        return of

    def field(t, state):
        return smooth(t, state[0]), -state[1]

    y0 = (Y0, torch.ones(2, 1, dtype=DOUBLE))
    counts = [len(steps_of(field, T, y0, options={"norm": norm(factor)})[0]) for factor in (1, 1e4)]
    assert set(shapes) == {((2,), (2, 1))}
    assert counts[1] > 3 * counts[0]
    with pytest.raises(ValueError, match="one number for the whole state"):
        odeint(smooth, Y0, T, options={"norm": lambda error: error})


def test_first_and_largest_step_are_as_asked():
    told, field = steps_of(options={"first_step": 0.01, "max_step": 0.125})
    assert told[0][2] == 0.01
    assert field.times[1] <= 0.01
    assert max(step[2] for step in told) <= 0.125


def test_steps_of_the_least_size_are_taken_whatever_their_error():
    told, field = steps_of(lambda t, y: torch.cos(200 * t) * y, options={"min_step": 0.2})
    assert len([step for step in told if step[0] == "callback_accept_step"]) <= 6
    assert min(step[2] for step in told) > 0.19
    assert len(field.times) < 60


def test_safety_and_factors_shape_the_steps():
    def growth(**options):
        lengths = [step[2] for step in steps_of(options={"first_step": 1e-6, **options})[0]]
        return max(b / a for a, b in itertools.pairwise(lengths))

    assert growth(ifactor=3.0) == pytest.approx(3, rel=1e-6)
    assert growth() == pytest.approx(10, rel=1e-6)
    careful = len(steps_of(options={"safety": 0.3})[0])
    assert careful > 1.5 * len(steps_of()[0])
    told, _ = steps_of(lambda t, y: torch.cos(30 * t) * y, options={"first_step": 1.0, "dfactor": 0.05})
    assert told[1][0] == "callback_reject_step"
    assert told[2][2] < 0.2


def test_steps_run_out_after_max_num_steps_between_two_outputs():
    with pytest.raises(AssertionError, match=r"dopri5: stopped at t=.* max_num_steps exceeded"):
        odeint(lambda t, y: torch.cos(30 * t) * y, Y0, T, options={"max_num_steps": 5})
    odeint(smooth, Y0, torch.linspace(0, 1, 20, dtype=DOUBLE), options={"max_num_steps": 5})


@pytest.mark.parametrize("reverse", [False, True])
def test_callbacks_see_every_step_and_its_fate(reverse):
    t = T.flip(0) if reverse else T
    told, _ = steps_of(lambda t, y: torch.cos(30 * t) * y, t, options={"first_step": 0.5})
    tried, fates = told[::2], told[1::2]
    assert {step[0] for step in tried} == {"callback_step"}
    assert {step[0] for step in fates} == {"callback_accept_step", "callback_reject_step"}
    assert [step[1:3] for step in tried] == [step[1:3] for step in fates]
    taken = sum(step[2] for step in fates if step[0] == "callback_accept_step")
    assert taken == pytest.approx(1, rel=1e-12)
    assert tried[0][1] == float(t[0])
    assert_close(tried[0][3], Y0)


def test_callbacks_of_the_adjoint_see_state_and_cotangent():
    field, told = Counted(decay), []
    field.callback_step_adjoint = lambda t0, y, dt: told.append((float(t0), y))
    y0 = Y0.clone().requires_grad_()
    odeint_adjoint(field, y0, T, adjoint_params=(), method="rk4", options={"step_size": 0.1})[-1].sum().backward()
    assert len(told) == 10
    assert told[0][0] == 1.0
    assert [part.shape for part in told[0][1]] == [Y0.shape, Y0.shape]


def test_callbacks_and_options_that_a_method_does_not_know_are_named():
    field = Counted(decay)
    field.callback_accept_step = lambda t0, y, dt: None
    with pytest.warns(UserWarning, match="callback_accept_step"):
        odeint(field, Y0, T, method="rk4")
    with pytest.warns(UserWarning, match=r"euler: Unexpected arguments \{'first_step': 1\}.*step_size"):
        odeint(decay, Y0, T, method="euler", options={"first_step": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint(decay, Y0, T, options={"dtype": torch.float64, "max_num_steps": 1000})


def test_tolerances_may_differ_from_element_to_element_and_component_to_component():
    y0 = double(1.0, 1.0)
    exact = odeint(smooth, y0, T, rtol=1e-10, atol=1e-12)[-1]
    loose = odeint(smooth, y0, T, rtol=1e-2, atol=1e-2)[-1]
    for kwargs in ({"rtol": double(1e-9, 1e-9), "atol": 1e-11}, {"rtol": 1e-9, "atol": double(1e-11, 1e-11)}):
        assert_close(odeint(smooth, y0, T, **kwargs)[-1], exact, rtol=0, atol=1e-8)
    assert (loose - exact).norm() > 1e-5

    def field(t, state):
        return smooth(t, state[0]), 0 * state[1]

    tight = odeint(field, (y0, y0), T, rtol=(1e-9, 1e-2), atol=(1e-11, 1e-2))[0][-1]
    assert_close(tight, exact, rtol=0, atol=1e-8)
    for name in ("rtol", "atol"):
        with pytest.raises(ValueError, match=name):
            odeint(smooth, y0, T, **{name: double(1.0, 1.0, 1.0)})
        with pytest.raises(AssertionError, match=f"{name} requires gradient"):
            odeint(smooth, y0, T, **{name: double(1e-3, 1e-3).requires_grad_()})
    with pytest.raises(AssertionError, match="atol has 3 values"):
        odeint(field, (y0, y0), T, atol=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "rk5"}, "Invalid method 'rk5'.*dopri5"),
        ({"t": [0.0, 1.0]}, "t is a list"),
        ({"t": double(0.0, 1.0, 0.5)}, "strictly increasing or decreasing"),
        ({"t": double(0.0, 0.0)}, "strictly increasing or decreasing"),
        ({"t": double(0.0, float("nan"))}, "strictly increasing or decreasing"),
        ({"t": double(0.0, 1.0)[None]}, "one dimensional"),
        ({"t": torch.zeros(0)}, "one dimensional"),
        ({"y0": [1.0]}, "y0 is a list"),
        ({"y0": (Y0, 1.0)}, "y0 is a tuple"),
        ({"func": lambda t, y: y[:1].repeat(3)}, r"func returned shape \(3,\) for a state of shape \(2,\)"),
        ({"func": lambda t, y: None}, "func returned a NoneType"),
        ({"func": lambda t, y: True}, "func returned a bool"),
        ({"func": lambda t, y: y * 1j}, "make y0 complex"),
        ({"y0": (Y0, Y0)}, "func returned a Tensor; the state is a tuple of 2", ),
        ({"options": {"safety": 2.0}}, r"options\['safety'\]=2.0"),
        ({"y0": (Y0, Y0), "func": lambda t, y: (-part for part in y[:1])}, "func returned 1 values"),
        ({"options": {"min_step": 2.0, "max_step": 1.0}}, "max_step.*no smaller than min_step"),
        ({"method": "rk4", "options": {"interp": "spline"}}, "interp"),
        ({"y0": double(1.0)[0], "options": {"per_sample": True}}, "per_sample=True needs one batch axis"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_used_are_named_with_their_value(change, message):
    arguments = {"func": lambda t, y: -y[0] if isinstance(y, tuple) else -y, "y0": Y0, "t": T, **change}
    func, y0, t = (arguments.pop(name) for name in ("func", "y0", "t"))
    with pytest.raises(InvalidArgumentError, match=message) as error:
        odeint(func, y0, t, **arguments)
    assert isinstance(error.value, ValueError)
    assert isinstance(error.value, AssertionError)


@pytest.mark.parametrize("name", ["y0", "t"])
def test_integers_are_a_type_error(name):
    arguments = {"y0": Y0, "t": T, name: torch.tensor([0, 1])}
    with pytest.raises(TypeError, match=rf"`?{name}`? "):
        odeint(decay, arguments["y0"], arguments["t"])


@pytest.mark.parametrize("method", IMPLICIT)
def test_newtons_iteration_without_convergence_is_a_warning(method):
    with pytest.warns(UserWarning, match=f"{method}: Newton's iteration did not converge"):
        odeint(lambda t, y: 50 * torch.sin(9 * y), Y0, T, method=method, options={"max_iters": 1})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rk4", {"grid_constructor": lambda func, y, t: double(0.0, 0.3, 0.3, 0.3, 1.0)}),
        ("dopri5", {"ifactor": 1.0, "first_step": 0.01}),
        ("dopri5", {"step_t": double(-0.3, -0.3), "jump_t": double(-0.3, 0.5)}),
        ("dopri5", {"norm": lambda error: error.abs().max().reshape(1)}),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_what_torchdiffeq_accepts_is_accepted(method, options, reverse):
    options = dict(options)
    if reverse:
        options = {name: 1 - value if isinstance(value, torch.Tensor) else value for name, value in options.items()}
        if method == "rk4":
            options["grid_constructor"] = lambda func, y, t: double(1.0, 0.3, 0.3, 0.0)
    arguments = (smooth, Y0, T.flip(0) if reverse else T)
    ours, theirs = (solve(*arguments, method=method, options=options) for solve in (odeint, torchdiffeq.odeint))
    assert_close(ours, theirs, rtol=0, atol=1e-12 if method == "rk4" else 1e-5)


def test_steps_that_may_not_grow_do_not():
    told, _ = steps_of(options={"ifactor": 1.0, "first_step": 0.01})
    assert max(step[2] for step in told) <= 0.01 * (1 + 1e-12)


def test_times_named_twice_before_the_start_do_not_matter_on_the_way_back_either():
    y0, options = Y0.clone().requires_grad_(), {"step_t": double(-0.3, -0.3)}
    odeint_adjoint(smooth, y0, T, options=options, adjoint_params=())[-1].sum().backward()
    with pytest.raises(ValueError, match="twice"):
        odeint_adjoint(smooth, y0, T, adjoint_options={"step_t": double(0.3, 0.3)}, adjoint_params=())


def test_a_norm_of_the_way_back_may_have_an_axis():
    def norm(parts):
        return torch.stack([part.abs().max() for part in parts]).max().reshape(1)

    y0 = Y0.clone().requires_grad_()
    odeint_adjoint(decay, y0, T, adjoint_options={"norm": norm}, adjoint_params=())[-1].sum().backward()
    assert_close(y0.grad, double(-1.0, -1.0).exp(), rtol=1e-6, atol=0)


def test_a_grid_constructor_is_handed_a_tuple_end_to_end_as_by_torchdiffeq():
    asked = []

    def grid(func, y0, t):
        asked.append((y0, func(t[0], y0)))
        return t

    start, options = (Y0, torch.ones(2, 1, dtype=DOUBLE)), {"grid_constructor": grid}
    for solve in (odeint, torchdiffeq.odeint):
        solve(lambda t, state: (smooth(t, state[0]), -state[1]), start, T, method="rk4", options=options)
    assert asked[0][0].shape == (4,)
    assert_close(asked[0], asked[1])
