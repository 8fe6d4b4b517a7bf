"""Compiled steps: the same results and statistics as plain ones, compiled once whatever the batch size."""

import math

import pytest
import torch
from torch import nn

from isocline.solvers import (
    Auto,
    ConstantSteps,
    Dopri5,
    Kvaerno5,
    ODEProblem,
    PIDController,
    Rodas5P,
    SaveAt,
    Status,
    Tsit5,
    solve,
)
from isocline.solvers.compiled import CompiledStep

F64 = torch.float64
CONTROL = PIDController(1e-6, 1e-8)


class Count:
    """Compiles to plain PyTorch and counts the graphs."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, examples):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def count():
    torch._dynamo.reset()
    return Count()


def van_der_pol(t, y, mu):
    x, v = y.unbind(1)
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def problem(batch, high=50.0):
    mu = torch.linspace(0.1, high, batch, dtype=F64)
    return ODEProblem(van_der_pol, torch.tensor([[2.0, 0.0]], dtype=F64).repeat(batch, 1), 0.0, 1.5, mu)


def assert_same(found, wanted):
    torch.testing.assert_close(found.ys, wanted.ys, rtol=1e-9, atol=1e-9, equal_nan=True)
    for name in ("nfe", "accepted", "rejected"):
        assert torch.equal(getattr(found.stats, name), getattr(wanted.stats, name))
    assert torch.equal(found.status, wanted.status)
    assert torch.equal(found.stopped_at, wanted.stopped_at)


def test_results_equal_those_of_plain_steps_and_one_graph_serves_all_batch_sizes(count):
    step = CompiledStep(backend=count)
    with torch.no_grad():
        for batch in (9, 5):
            found = solve(problem(batch), Tsit5(), CONTROL, compiled=step)
            assert_same(found, solve(problem(batch), Tsit5(), CONTROL))
            assert found.succeeded.all()
    assert count.graphs == step.compilations == 1


@pytest.mark.parametrize("field", [van_der_pol, lambda t, y, mu: van_der_pol(t, y, mu) + torch.sin(t)[:, None]])
def test_stiff_steps_compile_with_the_derivatives_of_the_field(count, field):
    # Dual numbers cannot be traced: in the graph, Jacobian and derivative in time are found in reverse.
    start = problem(5, 500.0)
    stiff, stepper = ODEProblem(field, start.y0, 0.0, 1.5, start.cond), Rodas5P()
    with torch.no_grad():
        found = solve(stiff, stepper, CONTROL, compiled=CompiledStep(backend=count))
        wanted = solve(stiff, stepper, CONTROL)
    assert count.graphs == 1
    assert found.succeeded.all()
    torch.testing.assert_close(found.final, wanted.final, rtol=1e-7, atol=1e-9)
    assert torch.equal(found.stats.accepted, wanted.stats.accepted)


@pytest.mark.slow
def test_controllers_of_equal_settings_share_a_graph_and_others_do_not(count):
    step = CompiledStep(backend=count)
    with torch.no_grad():
        for rtol in (1e-3, 1e-3, 1e-4):
            control = PIDController(rtol, 1e-8)
            assert_same(solve(problem(5), Dopri5(), control, compiled=step), solve(problem(5), Dopri5(), control))
    assert count.graphs == 2


@pytest.mark.slow
def test_one_sample_is_compiled_for_itself(count):
    step = CompiledStep(backend=count)
    with torch.no_grad():
        assert_same(solve(problem(1), Tsit5(), CONTROL, compiled=step), solve(problem(1), Tsit5(), CONTROL))
        assert_same(solve(problem(4), Tsit5(), CONTROL, compiled=step), solve(problem(4), Tsit5(), CONTROL))
    assert count.graphs == 2


def test_states_within_steps_come_from_compiled_steps_too(count):
    step, saveat = CompiledStep(backend=count), SaveAt(ts=[0.0, 0.4, 1.1, 1.5])
    with torch.no_grad():
        found = solve(problem(6), Tsit5(), CONTROL, saveat, compiled=step)
    assert_same(found, solve(problem(6), Tsit5(), CONTROL, saveat))


def test_failures_keep_their_status(count):
    def field(t, y, flag):
        return torch.where((flag[:, None] > 0) & (t[:, None] > 0.5), torch.nan, -y)

    flag = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=F64)
    equation = ODEProblem(field, torch.ones(4, 1, dtype=F64), 0.0, 1.0, flag)
    with torch.no_grad():
        found = solve(equation, Tsit5(), CONTROL, compiled=CompiledStep(backend=count))
    assert_same(found, solve(equation, Tsit5(), CONTROL))
    assert found.status.tolist() == [Status.SUCCESS, Status.NON_FINITE] * 2


def slow_then_undefined(t, y, flag):
    return torch.where((flag[:, None] > 0) & (t[:, None] > 0.5), torch.nan, -(1 + 30 * flag[:, None].abs()) * y)


@pytest.mark.parametrize("most", [6, 10_000])
def test_several_steps_in_a_call_count_and_end_as_single_ones(count, most):
    flag = torch.tensor([0.0, 1.0, -1.0, -0.2, 1.0, 0.0, -4.0], dtype=F64)
    ends = torch.tensor([1.0, 1.0, 1.0, 2.0, 0.1, 0.0, -0.3], dtype=F64)
    equation = ODEProblem(slow_then_undefined, torch.ones(7, 2, dtype=F64), 0.0, ends, flag)
    step = CompiledStep(backend=count)
    with torch.no_grad():
        found = solve(equation, Tsit5(), PIDController(1e-6, 1e-8, max_steps=most), compiled=step)
        # A time that steps have to end at, though nobody gets there, asks for one step in a call.
        single = PIDController(1e-6, 1e-8, max_steps=most, step_ts=(9.0,))
        assert_same(found, solve(equation, Tsit5(), single, compiled=step))
    assert count.graphs == 2
    assert found.status[1] == (Status.MAX_STEPS if most == 6 else Status.NON_FINITE)
    assert found.status[0] == found.status[5] == Status.SUCCESS


@pytest.mark.slow
def test_weights_may_change_between_solves_and_gradients_flow(count):
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    equation = ODEProblem(lambda t, y, cond: net(y), torch.randn(5, 2, dtype=F64), 0.0, 1.0)
    step = CompiledStep(backend="aot_eager")
    for _ in range(2):
        found = solve(equation, Tsit5(), CONTROL, compiled=step)
        wanted = solve(equation, Tsit5(), CONTROL)
        torch.testing.assert_close(found.final, wanted.final, rtol=1e-9, atol=1e-9)
        for one, other in zip(
            torch.autograd.grad(found.final.square().sum(), net.parameters()),
            torch.autograd.grad(wanted.final.square().sum(), net.parameters()),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
        with torch.no_grad():
            net[0].weight.mul_(1.5)


@pytest.mark.slow
def test_generated_code_agrees_as_well():
    torch._dynamo.reset()
    step = CompiledStep()
    with torch.no_grad():
        found = solve(problem(40), Tsit5(), CONTROL, compiled=step)
        wanted = solve(problem(40), Tsit5(), CONTROL)
    torch.testing.assert_close(found.final, wanted.final, rtol=1e-7, atol=1e-7)
    assert (found.stats.nfe - wanted.stats.nfe).abs().max() <= 12


def test_grids_and_joint_control_are_refused():
    for control in (ConstantSteps(3), PIDController(joint=True)):
        with pytest.raises(ValueError, match="steps for each sample"):
            solve(problem(2), Tsit5(), control, compiled=CompiledStep())


def test_a_compiled_solve_takes_the_slope_beyond_a_jump(count):
    def field(t, y, cond):
        return torch.where(t < 0.5, 1.0, -2.0)[:, None].expand_as(y) * y

    equation = ODEProblem(field, torch.ones(3, 1, dtype=F64), 0.0, 1.0)
    control = PIDController(1e-8, 1e-8, jump_ts=[0.5])
    with torch.no_grad():
        plain = solve(equation, Tsit5(), control)
        compiled = solve(equation, Tsit5(), control, compiled=CompiledStep(count))
    assert torch.equal(plain.stats.nfe, compiled.stats.nfe)
    assert torch.equal(plain.stats.rejected, compiled.stats.rejected)
    torch.testing.assert_close(compiled.final, torch.full((3, 1), math.exp(-0.5), dtype=F64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("stepper", [Kvaerno5(), Auto(), Rodas5P(refinements=2)], ids=lambda s: type(s).__name__)
def test_steps_that_branch_by_their_numbers_are_refused_by_name(stepper):
    with pytest.raises(ValueError, match=f"cannot trace {type(stepper).__name__}"):
        solve(problem(2), stepper, CONTROL, compiled=CompiledStep())


def test_jumps_do_not_compile_again(count):
    step, controller = CompiledStep(count), PIDController(1e-6, 1e-8, jump_ts=[0.5])
    with torch.no_grad():
        for _ in range(2):
            solve(problem(3), Tsit5(), controller, compiled=step)
    assert step.compilations == count.graphs == 1
