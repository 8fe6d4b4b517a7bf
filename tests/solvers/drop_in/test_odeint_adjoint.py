"""`odeint_adjoint`: its gradients against the exact ones, and every adjoint_ argument."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchdiffeq
from drop_in.equations import DOUBLE, Linear, double, smooth
from torch import nn
from torch.testing import assert_close

from isocline.solvers import odeint, odeint_adjoint
from isocline.solvers.gradient import AdjointWarning

EXACT = {"rtol": 1e-9, "atol": 1e-11}
KINDS = ("backsolve", "interpolated", "checkpointed", "discrete")


@pytest.fixture(autouse=True)
def _no_doubt():
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdjointWarning)
        yield


def gradients(solve, field, y0, t, **kwargs):
    y0, t = y0.clone().requires_grad_(), t.clone().requires_grad_()
    y = solve(field, y0, t, **kwargs)
    weights = torch.sin(1 + torch.arange(y.numel(), dtype=DOUBLE)).reshape(y.shape)
    return torch.autograd.grad((weights * y).sum(), (y0, t, *field.parameters()))


def exact_gradients(field, y0, t):
    def solve(field, y0, t):
        return torch.stack([field.exact(y0, time) for time in t - t[0]])

    return gradients(solve, field, y0, t)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [(0.1, 0.4, 1.0), (1.0, 0.4, 0.1)], ids=["forward", "backward"])
def test_gradients_in_state_times_and_parameters_are_exact(kind, times):
    field, y0, t = Linear(), double(1.0, -0.5, 0.3), double(*times)
    options = {"gradient": kind}
    found = gradients(odeint_adjoint, field, y0, t, adjoint_options=options, **EXACT)
    for ours, true in zip(found, exact_gradients(field, y0, t), strict=True):
        assert_close(ours, true, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["tsit5", "rk4", "implicit_adams", "gl4", "rodas5p", "kvaerno5", "scipy_solver"])
def test_every_kind_of_method_has_an_adjoint(method):
    field, y0 = Linear(), double(1.0, -0.5, 0.3)
    t = torch.linspace(0, 1, 33, dtype=DOUBLE) if method in ("rk4", "implicit_adams", "gl4") else double(0.0, 0.5, 1.0)
    for ours, true in zip(
        gradients(odeint_adjoint, field, y0, t, method=method, **EXACT), exact_gradients(field, y0, t), strict=True
    ):
        assert (ours - true).norm() <= 2e-5 * true.norm()


def test_another_method_and_other_tolerances_lead_back():
    field, y0, t = Linear(), double(1.0, -0.5, 0.3), double(0.0, 1.0)
    back = {"adjoint_method": "rk4", "adjoint_options": {"step_size": 0.02}}
    loose = {"adjoint_rtol": 1e-2, "adjoint_atol": 1e-2, "adjoint_options": {"check": False}}
    true = exact_gradients(field, y0, t)
    errors = []
    for kwargs in (back, loose, {}):
        found = gradients(odeint_adjoint, field, y0, t, **EXACT, **kwargs)
        errors.append(max(float((a - b).norm()) for a, b in zip(found, true, strict=True)))
    assert errors[2] < 1e-7
    assert errors[0] < 1e-6
    assert 1e-5 < errors[1] < 1e-1
    with pytest.raises(ValueError, match="adjoint_options"):
        odeint_adjoint(field, y0, t, method="rk4", options={"step_size": 0.1}, adjoint_method="dopri5")


def test_only_the_parameters_named_are_differentiated_by_and_unused_ones_get_zero():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Parameter(double(value)[0]) for value in (0.3, 0.2))
            self.unused = nn.Linear(2, 2)

        def forward(self, t, y):
            return (self.a + self.b) * y

    field, y0 = Two(), double(1.0)
    odeint_adjoint(field, y0, double(0.0, 1.0), adjoint_params=(field.a,))[-1].sum().backward()
    assert_close(field.a.grad, double(0.5).exp()[0])
    assert field.b.grad is None
    odeint_adjoint(field, y0, double(0.0, 1.0))[-1].sum().backward()
    assert field.unused.weight.grad.abs().max() == 0
    rate = double(0.5).requires_grad_()
    with pytest.raises(ValueError, match="adjoint_params"):
        odeint_adjoint(lambda t, y: rate * y, y0, double(0.0, 1.0))
    odeint_adjoint(lambda t, y: rate * y, y0, double(0.0, 1.0), adjoint_params=[rate])[-1].sum().backward()
    assert_close(rate.grad, double(0.5).exp(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_tuples_complex_and_plain_numbers_have_gradients(method):
    t = torch.linspace(0, 1, 65, dtype=DOUBLE)
    x0, z0 = double(2.0)[0].requires_grad_(), torch.tensor([1 + 1j], requires_grad=True, dtype=torch.complex128)
    rate = double(0.5)[0].requires_grad_()
    _, v = odeint_adjoint(
        lambda t, s: (rate * s[0], s[0] * s[1]), (x0, double(1.0)), t, method=method, adjoint_params=(rate,)
    )
    # v(1) = exp(∫ x) with x = 2 exp(t / 2).
    found = torch.autograd.grad(v[-1].sum(), (x0, rate))
    integral = (rate.exp() - 1) / rate
    true = torch.autograd.grad((x0 * integral).exp(), (x0, rate))
    for ours, exact in zip(found, true, strict=True):
        assert_close(ours, exact, rtol=1e-5, atol=0)
    z = odeint_adjoint(lambda t, z: 1j * z, z0, t, method=method, adjoint_params=())
    (grad,) = torch.autograd.grad(z[-1].real.sum(), (z0,))
    assert_close(grad, torch.exp(torch.tensor([-1j], dtype=torch.complex128)), rtol=1e-5, atol=0)


def test_per_sample_solves_have_an_adjoint():
    field, y0 = Linear(), torch.randn(4, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    t = double(0.0, 0.5, 1.0)
    found = gradients(odeint_adjoint, field, y0, t, options={"per_sample": True}, **EXACT)
    for ours, true in zip(found, exact_gradients(field, y0, t), strict=True):
        assert_close(ours, true, rtol=1e-6, atol=1e-7)


def test_a_norm_for_the_way_back_sees_every_part_in_torchdiffeqs_order():
    field, seen = Linear(), []

    def norm(parts):
        seen.append([tuple(part.shape) for part in parts])
        return torch.stack([part.abs().max() for part in parts]).max()

    y0 = (torch.ones(3, dtype=DOUBLE, requires_grad=True), torch.ones(2, 2, dtype=DOUBLE))
    y = odeint_adjoint(
        lambda t, s: (field(t, s[0]), -s[1]), y0, double(0.0, 1.0), adjoint_params=tuple(field.parameters()),
        adjoint_options={"norm": norm}, **EXACT,
    )  # fmt: skip
    y[0][-1].sum().backward()
    assert all(shapes == [(), (3,), (2, 2), (3,), (2, 2), (3, 3)] for shapes in seen)
    assert seen
    plain = y0[0].grad.clone()
    y0[0].grad = None
    odeint_adjoint(field, y0[0], double(0.0, 1.0), adjoint_options={"norm": "seminorm"}, **EXACT)[-1].sum().backward()
    assert_close(y0[0].grad, plain, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="seminorm"):
        odeint_adjoint(field, y0[0], double(0.0, 1.0), adjoint_options={"norm": "semi"})


def test_a_state_that_cannot_be_found_again_is_noticed_and_the_gradient_is_right():
    """Van der Pol's equation, μ = 8: the step of torchdiffeq's way back underflows."""

    def van_der_pol(t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, 8 * (1 - x * x) * v - x])

    t = double(0.0, 10.0)
    y0 = double(2.0, 0.0).requires_grad_()
    tight = {"rtol": 1e-6, "atol": 1e-8}
    y = odeint_adjoint(van_der_pol, y0, t, adjoint_params=(), **tight)
    with pytest.warns(AdjointWarning, match="found by the discrete adjoint"):
        y[-1].sum().backward()
    (exact,) = torch.autograd.grad(odeint(van_der_pol, y0, t, **tight)[-1].sum(), (y0,))
    assert_close(y0.grad, exact, rtol=1e-9, atol=1e-12)


def test_a_grid_too_coarse_to_go_back_on_gives_the_gradient_of_the_steps():
    y0 = double(1.0).requires_grad_()
    y = odeint_adjoint(
        lambda t, y: -3 * y, y0, double(0.0, 1.0), method="euler", adjoint_params=(), options={"step_size": 0.1}
    )
    with pytest.warns(AdjointWarning):
        y[-1].sum().backward()
    assert_close(y0.grad, double(0.7**10))


def test_memory_does_not_grow_with_the_number_of_steps():
    def kept(n):
        y0 = torch.randn(50, 20, dtype=DOUBLE, requires_grad=True)
        sizes = []
        field = nn.Linear(20, 20, dtype=DOUBLE)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            options = {"step_size": 1 / n}
            y = odeint_adjoint(lambda t, y: field(y), y0, double(0.0, 1.0), method="rk4", options=options,
                               adjoint_params=tuple(field.parameters()))  # fmt: skip
        assert y.requires_grad
        return sum(sizes)

    assert kept(64) == kept(4)


def test_gradients_agree_with_torchdiffeq():
    class Smooth(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(double(0.8)[0])

        def forward(self, t, y):
            return self.scale * smooth(t, y)

    field, y0, t = Smooth(), double(1.0, -0.4), double(0.0, 0.7, 1.5)
    ours = gradients(odeint_adjoint, field, y0, t, **EXACT)
    theirs = gradients(torchdiffeq.odeint_adjoint, field, y0, t, **EXACT)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_parameters_changed_before_the_way_back_are_an_error():
    field, y0 = Linear(), double(1.0, -0.5, 0.3)
    y = odeint_adjoint(field, y0, double(0.0, 1.0))
    with torch.no_grad():
        field.A.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        y[-1].sum().backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_tuple", [False, True])
def test_a_start_changed_before_the_way_back_changes_no_gradient(kind, is_tuple):
    def gradient(solve, **kwargs):
        rate, y0, t = double(0.5)[0].requires_grad_(), double(1.0, 2.0), double(0.0, 0.5, 1.0)
        start = (y0,) if is_tuple else y0
        y = solve(
            lambda t, y: (rate * torch.sin(y[0]),) if is_tuple else rate * torch.sin(y), start, t,
            adjoint_params=(rate,), **kwargs,
        )  # fmt: skip
        y0.add_(1)
        (y[0] if is_tuple else y)[-1].sum().backward()
        return rate.grad

    found = gradient(odeint_adjoint, adjoint_options={"gradient": kind})
    assert_close(found, gradient(torchdiffeq.odeint_adjoint), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "euler"])
def test_the_steps_are_taken_again_from_where_they_began_at_the_times_they_had(method):
    rate, y0, t = double(60.0)[0].requires_grad_(), double(1.0), double(0.0, 0.5, 1.0)
    options = {"step_size": 0.02} if method == "euler" else {}

    def field(t, y):
        return -rate * y

    (exact,) = torch.autograd.grad(odeint(field, y0, t, method=method, options=options)[1].sum(), rate)
    y = odeint_adjoint(field, y0, t, method=method, options=options, adjoint_params=(rate,))
    y0.add_(1)
    t.mul_(2)
    with pytest.warns(AdjointWarning, match="found by the discrete adjoint"):
        y[1].sum().backward()
    assert_close(rate.grad, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["backsolve", "interpolated"])
@pytest.mark.parametrize("is_tuple", [False, True])
def test_results_changed_before_the_way_back_are_an_error(kind, is_tuple):
    rate, y0 = double(0.5)[0].requires_grad_(), double(1.0, 2.0)
    y = odeint_adjoint(
        lambda t, y: (rate * y[0],) if is_tuple else rate * y, (y0,) if is_tuple else y0, double(0.0, 1.0),
        adjoint_params=(rate,), adjoint_options={"gradient": kind},
    )  # fmt: skip
    y = y[0] if is_tuple else y
    y.detach().mul_(1.005)
    with pytest.raises(RuntimeError, match=r"saved states.*changed in place.*\.clone\(\)"):
        y[-1].sum().backward()


@pytest.mark.parametrize("kind", ["checkpointed", "discrete"])
def test_results_that_the_way_back_does_not_need_may_change(kind):
    rate, y0 = double(0.5)[0].requires_grad_(), double(1.0, 2.0)
    options = {"gradient": kind}
    y = odeint_adjoint(lambda t, y: rate * y, y0, double(0.0, 1.0), adjoint_params=(rate,), adjoint_options=options)
    y.mul_(2)
    y[-1].sum().backward()
    assert_close(rate.grad, 6 * rate.detach().exp(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("is_tuple", [False, True])
def test_at_a_single_time_only_the_start_has_a_derivative_that_is_not_zero(wanted, times, is_tuple):
    def derivatives(solve):
        rate, y0 = double(0.5)[0].requires_grad_(), double(1.0, 2.0).requires_grad_(wanted)
        t = double(0.5).requires_grad_(times)
        y = solve(
            lambda t, y: (rate * y[0],) if is_tuple else rate * y, (y0,) if is_tuple else y0, t, adjoint_params=(rate,)
        )
        (3 * (y[0] if is_tuple else y)).sum().backward()
        return [rate.grad, *([y0.grad] if wanted else []), *([t.grad] if times else [])]

    assert_close(derivatives(odeint_adjoint), derivatives(torchdiffeq.odeint_adjoint))
