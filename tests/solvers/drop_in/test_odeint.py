"""`odeint` against torchdiffeq, method by method, and against closed forms."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torchdiffeq
from drop_in.equations import DOUBLE, Linear, decay, double, smooth
from torch.testing import assert_close

from isocline.solvers import SolverError, odeint, odeint_adjoint
from isocline.solvers.drop_in.methods import _METHODS, find_method
from isocline.solvers.drop_in.options import AdaptiveOptions, GridOptions
from isocline.solvers.dual import Dual

ADAPTIVE = [name for name in _METHODS if find_method(name).kind is AdaptiveOptions]
GRID = [name for name in _METHODS if find_method(name).kind is GridOptions]
EXACT = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("interp", ["linear", "cubic"])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_on_the_same_grid_the_result_is_that_of_torchdiffeq(method, interp, reverse):
    t = double(0.0, 0.35, 0.4, 1.03)
    t = t.flip(0) if reverse else t
    options = {"step_size": 0.1, "interp": interp}
    arguments = (smooth, double(1.0, -0.4), t)
    ours = odeint(*arguments, method=method, options=options)
    assert_close(ours, torchdiffeq.odeint(*arguments, method=method, options=options), rtol=0, atol=1e-12)


def test_adams_methods_of_one_order_are_those_of_torchdiffeq():
    arguments = (smooth, double(1.0, -0.4), torch.linspace(0, 1, 41, dtype=DOUBLE))
    options = {"max_order": 4}
    ours = odeint(*arguments, method="explicit_adams", options=options)
    assert_close(ours, torchdiffeq.odeint(*arguments, method="explicit_adams", options=options), rtol=0, atol=1e-12)
    # Corrections are as many as one says here, as many as converge there.
    options["max_iters"] = 12
    ours = odeint(*arguments, method="implicit_adams", options=options)
    theirs = torchdiffeq.odeint(*arguments, method="fixed_adams", rtol=1e-12, atol=1e-14, options=options)
    assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_adams_methods_of_order_two_are_of_order_two():
    """Below order four torchdiffeq falls back on a Runge–Kutta rule; here the order is what it says."""
    y0, options = double(1.0, -0.4), {"max_order": 2}
    exact = odeint(smooth, y0, double(0.0, 1.0), **EXACT)[-1]
    coarse, fine = (
        odeint(smooth, y0, torch.linspace(0, 1, n, dtype=DOUBLE), method="implicit_adams", options=options)[-1]
        for n in (41, 81)
    )
    assert 3.5 < (coarse - exact).norm() / (fine - exact).norm() < 4.5


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8"])
def test_adaptive_methods_agree_with_torchdiffeq_within_their_tolerance(method):
    arguments = (smooth, double(1.0, -0.4), double(0.0, 0.3, 2.0))
    rtol = 1e-6 if method in ("fehlberg2", "adaptive_heun") else 1e-8
    ours = odeint(*arguments, method=method, rtol=rtol, atol=rtol / 100)
    theirs = torchdiffeq.odeint(*arguments, method=method, rtol=rtol, atol=rtol / 100)
    exact = odeint(*arguments, method="dopri8", rtol=1e-12, atol=1e-13)
    # Proportional to the tolerance, by at most the number of steps of the order-2 methods (about 110 for Fehlberg).
    assert_close(ours, exact, rtol=0, atol=300 * rtol)
    # Its dopri8 is interpolated by a polynomial of order four, at the end as well.
    assert_close(theirs, exact, rtol=0, atol=1000 * rtol)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_adaptive_method_solves_a_linear_equation(method):
    field, y0 = Linear(), double(1.0, -0.5, 0.3)
    low = method in ("fehlberg2", "adaptive_heun", "adaptive_trbdf2")
    with torch.no_grad():
        y = odeint(field, y0, double(0.0, 0.4, 1.0), method=method, rtol=1e-6 if low else 1e-8, atol=1e-9)
    exact = torch.stack([field.exact(y0, time) for time in (0.0, 0.4, 1.0)]).detach()
    assert_close(y, exact, rtol=0, atol=100 * (1e-6 if low else 1e-8))


@pytest.mark.parametrize("method", GRID)
def test_every_method_on_a_grid_has_at_least_its_order(method):
    field, y0 = Linear(), double(1.0, -0.5, 0.3)
    order = find_method(method).make(GridOptions(), 1e-7, 1e-9).order
    with torch.no_grad():
        ends = (
            odeint(field, y0, double(0.0, 1.0), method=method, options={"step_size": h})[-1] for h in (1 / 16, 1 / 32)
        )
        coarse, fine = ((end - field.exact(y0, 1.0)).norm() for end in ends)
    assert fine < 1e-13 or coarse / fine > 2 ** (order - 0.35)


def test_scipy_agrees_and_has_its_own_methods():
    field, y0 = Linear(), double(1.0, -0.5, 0.3)
    for solver in ("LSODA", "Radau", "RK45"):
        y = odeint(field, y0, double(1.0, 0.2), method="scipy_solver", options={"solver": solver}, **EXACT)
        assert_close(y[1], field.exact(y0, -0.8).detach(), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="Fancy"):
        odeint(field, y0, double(0.0, 1.0), method="scipy_solver", options={"solver": "Fancy"})


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (4, 1, 2)])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_midpoint", "rodas5p", "scipy_solver"])
def test_results_lead_with_time_whatever_the_state_is(method, shape):
    y0 = torch.full(shape, 2.0, dtype=DOUBLE)
    t = torch.linspace(0, 1, 33, dtype=DOUBLE)
    y = odeint(decay, y0, t, method=method)
    assert y.shape == (33, *shape)
    assert_close(y[0], y0)
    assert_close(y, 2 * torch.exp(-t).reshape(-1, *[1] * len(shape)).expand_as(y), rtol=3e-4, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "radauIIA5", "auto"])
def test_a_tuple_of_states_is_one_system(method):
    def rotate(t, state):
        x, (v) = state
        return v.reshape(()), -x.reshape(1, 1)

    t = torch.linspace(0, 1, 17, dtype=DOUBLE)
    x, v = odeint(rotate, (double(0.0)[0], double(1.0)[None]), t, method=method)
    assert x.shape == (17,)
    assert v.shape == (17, 1, 1)
    assert_close(x, t.sin(), rtol=0, atol=1e-5)
    assert_close(v.flatten(), t.cos(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4", "kvaerno5"])
def test_complex_states_turn(method):
    y0 = torch.tensor([1.0 + 0j, 2j], dtype=torch.complex128)
    times = []

    def turn(t, y):
        times.append(t.dtype)
        return 1j * y

    t = torch.linspace(0, 1, 33, dtype=DOUBLE)
    y = odeint(turn, y0, t, method=method)
    assert_close(y, y0 * torch.exp(1j * t)[:, None], rtol=0, atol=1e-5)
    assert set(times) == {DOUBLE}


@pytest.mark.parametrize(
    ("dtype", "real"), [(torch.float32, torch.float32), (torch.complex64, torch.float32), (DOUBLE, DOUBLE)]
)
def test_time_has_the_real_dtype_of_the_state_and_no_axis(dtype, real):
    seen = []
    odeint(lambda t, y: seen.append((t.dtype, t.shape)) or -y, torch.ones(3, dtype=dtype), double(0.0, 1.0))
    assert set(seen) == {(real, torch.Size())}


def test_going_back_undoes_going_forward():
    y0, t = double(1.0, -0.4), double(0.2, 1.0, 1.7)
    there = odeint(smooth, y0, t, **EXACT)
    back = odeint(smooth, there[-1], t.flip(0), **EXACT)
    assert_close(back.flip(0), there, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8"])
def test_the_last_state_is_a_steps_end_and_not_interpolated(method):
    """Past t1 torchdiffeq steps on and interpolates by a polynomial of order four."""
    asked = []

    def field(t, y):
        asked.append(float(t))
        return smooth(t, y)

    odeint(field, double(1.0, -0.4), double(0.0, 0.7), method=method)
    assert max(asked) == 0.7


def test_a_single_time_needs_no_step():
    y0 = double(1.0, 2.0)
    assert_close(odeint(smooth, y0, double(0.5)), y0[None])
    assert odeint(smooth, (y0, y0), double(0.5))[1].shape == (1, 2)


@pytest.mark.parametrize("solve", [odeint, partial(odeint_adjoint, adjoint_params=())])
def test_a_single_state_is_a_copy(solve):
    y0 = double(1.0, 2.0)
    solve(smooth, y0, double(0.5)).add_(1)
    assert_close(y0, double(1.0, 2.0))


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4", "midpoint"])
def test_components_of_a_result_may_be_changed_in_place(method):
    def gradient(solve):
        y0 = (double(1.0, 2.0).requires_grad_(), double(0.5).requires_grad_())
        a, b = solve(lambda t, y: (-y[0], y[1]), y0, double(0.0, 0.5, 1.0), method=method)
        a.clamp_(-1, 1)
        b.mul_(2)
        return torch.autograd.grad(a.sum() + b.sum(), y0)

    assert_close(gradient(odeint), gradient(torchdiffeq.odeint), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4", "midpoint"])
@pytest.mark.parametrize("bound", [5.0, 1.5])
def test_func_may_change_components_in_place(method, bound):
    def solution(solve):
        y0 = (double(1.0, 2.0).requires_grad_(), double(0.5).requires_grad_())

        def field(t, y):
            h, c = y
            h.clamp_(-bound, bound)
            return -h, c

        a, b = solve(field, y0, double(0.0, 0.5, 1.0), method=method)
        return a, b, *torch.autograd.grad(a.sum() + b.sum(), y0)

    assert_close(solution(odeint), solution(torchdiffeq.odeint), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_slopes_of_a_tuple_may_be_stacked_or_generated(method):
    y0, t = (double(1.0, -0.4), double(0.3, 2.0)), double(0.0, 1.0)
    exact = odeint(lambda t, y: tuple(smooth(t, part) for part in y), y0, t, method=method)
    for field in (
        lambda t, y: smooth(t, torch.stack(y)),
        lambda t, y: (smooth(t, part) for part in y),
        lambda t, y: [smooth(t, part) for part in y],
    ):
        assert_close(odeint(field, y0, t, method=method), exact)


def test_per_sample_stacked_slopes_may_lose_rows_like_any_other():
    y0, counts = (double(1.0, -0.4, 2.0), double(0.1, 1.0, 30.0)), []

    def field(t, y):
        counts.append(len(t))
        return torch.stack([torch.cos(y[1] * t), torch.zeros_like(y[1])])

    x, _ = odeint(field, y0, double(0.0, 2.0), options={"per_sample": True})
    assert_close(x[1], y0[0] + torch.sin(2 * y0[1]) / y0[1], rtol=0, atol=1e-6)
    assert min(counts) == 1


@pytest.mark.parametrize("method", ["dopri5", "rk4", "gl4"])
def test_a_slope_may_be_a_number(method):
    y = odeint(lambda t, y: 0.1, double(1.0, 2.0), double(0.0, 1.0), method=method)
    assert_close(y[-1], double(1.1, 2.1))


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_euler", "rodas4"])
def test_gradients_in_state_and_times_are_those_of_the_solution(method):
    field = Linear()
    y0 = double(1.0, -0.5, 0.3).requires_grad_()
    t = torch.linspace(0.1, 0.9, 161 if method == "implicit_euler" else 17, dtype=DOUBLE).requires_grad_()
    weights = torch.sin(torch.arange(len(t) * 3, dtype=DOUBLE)).reshape(-1, 3)
    loss = (weights * odeint(field, y0, t, method=method)).sum()
    found = torch.autograd.grad(loss, (y0, t, field.A))
    exact = (weights * torch.stack([field.exact(y0, time) for time in t - t[0]])).sum()
    tolerance = {"implicit_euler": 1e-2, "rk4": 1e-5}.get(method, 1e-6)
    for ours, true in zip(found, torch.autograd.grad(exact, (y0, t, field.A)), strict=True):
        assert (ours - true).norm() <= tolerance * true.norm()


def test_gradcheck_passes_at_fixed_steps():
    y0 = double(1.0, -0.4).requires_grad_()
    t = double(0.0, 0.5, 1.0)
    assert torch.autograd.gradcheck(
        lambda y0: odeint(smooth, y0, t, method="heun3", options={"step_size": 0.25}), (y0,)
    )


def test_per_sample_each_row_has_the_steps_that_it_needs_alone():
    rates = double(0.1, 1.0, 30.0)[:, None]
    y0 = torch.cat([rates, torch.ones_like(rates)], 1)
    calls = []

    def field(t, y):
        assert t.shape == (len(y), 1)
        calls.append(len(y))
        return torch.cat([torch.zeros_like(y[:, :1]), torch.cos(y[:, :1] * t)], 1)

    t = double(0.0, 0.5, 2.0)
    y = odeint(field, y0, t, options={"per_sample": True}, rtol=1e-7, atol=1e-9)
    exact = 1 + torch.sin(rates[:, 0] * t[:, None]) / rates[:, 0]
    assert_close(y[:, :, 1], exact, rtol=0, atol=1e-6)
    assert min(calls) == 1
    assert calls.count(3) < len(calls) / 2


def test_per_sample_takes_tuples_with_one_batch():
    def field(t, state):
        x, v = state
        return v, -x * torch.ones_like(t)

    x0 = torch.linspace(0, 1, 5, dtype=DOUBLE)[:, None]
    t = double(0.0, 1.0)
    x, v = odeint(field, (x0, torch.ones_like(x0)), t, options={"per_sample": True})
    assert_close(x[1], x0 * t[1].cos() + t[1].sin(), rtol=0, atol=1e-6)
    assert v.shape == (2, 5, 1)


def test_a_stiff_equation_is_solved_by_the_methods_for_it():
    def stiff(t, y):
        return -1e6 * (y - torch.cos(t)) - torch.sin(t)

    for method in ("rodas5p", "kvaerno5", "auto"):
        y = odeint(stiff, double(1.0), double(0.0, 2.0), method=method, rtol=1e-6, atol=1e-8)
        assert_close(y[-1], double(2.0).cos(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", [{}, {"per_sample": True}])
def test_a_field_that_is_not_finite_is_an_error_that_names_the_time(options):
    def blow_up(t, y):
        return torch.where(t > 0.5, torch.nan, 1.0) * y

    with pytest.raises(SolverError, match=r"dopri5: .*stopped at t=0\.5.*non-finite") as error:
        odeint(blow_up, double(1.0, 2.0)[:, None], double(0.0, 1.0), options=options)
    assert isinstance(error.value, AssertionError)


def test_a_singularity_is_an_underflow_of_the_step():
    with pytest.raises(AssertionError, match=r"stopped at t=1 after .* (underflow in dt|non-finite)"):
        odeint(lambda t, y: y * y, double(1.0), double(0.0, 2.0))


@pytest.mark.parametrize("method", ["implicit_midpoint", "trbdf2", "kvaerno5", "rodas5p"])
@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_implicit_methods_find_the_jacobian_of_tensors_by_dual_numbers(method, shape):
    seen = set()

    def func(t, y):
        seen.add(type(y))
        return torch.cos(t) - y * y

    y0 = torch.linspace(0.5, 1.0, 6, dtype=torch.float64)[: math.prod(shape)].reshape(shape)
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    found = odeint(func, y0, t, method=method, rtol=1e-6, atol=1e-6)
    assert seen == {torch.Tensor, Dual}
    reference = torchdiffeq.odeint(func, y0, t, method="dopri8", rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, reference, rtol=2e-3, atol=2e-3)
