"""Times at which steps have to end: hit exactly, and the slope found again beyond a jump."""

import math

import pytest
import torch

from isocline.solvers import (
    Auto,
    Dopri5,
    Heun,
    Kvaerno5,
    ODEProblem,
    PIDController,
    Rodas4,
    Rodas5P,
    SaveAt,
    SDEProblem,
    SecondOrderProblem,
    ShARK,
    Tsit5,
    VirtualBrownianTree,
    solve,
)
from isocline.solvers.semilinear import DiagonalLinear, SemilinearProblem

F64 = torch.float64
JUMP = 1 / 3


def switched(t, y, cond):
    """-1 before the jump and +2 after it."""
    slope = torch.where(t > JUMP, 2.0, -1.0).to(y.dtype)
    return (slope if slope.ndim == 0 else slope[:, None]).expand_as(y)


def seen_times(controller, t0=0.0, t1=1.0, batch=2):
    times = []

    def field(t, y, cond):
        times.extend(t.reshape(-1).tolist())
        return -y

    solution = solve(ODEProblem(field, torch.ones(batch, 1, dtype=F64), t0, t1), Tsit5(), controller)
    return set(times), solution


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_stops_are_hit_exactly_in_both_directions(joint, t0, t1):
    stops = [0.1, JUMP, 0.9, 7.0]
    times, solution = seen_times(PIDController(1e-3, 1e-3, joint=joint, step_ts=stops), t0, t1)
    assert {0.1, JUMP, 0.9, t1} <= times
    assert max(times) <= 1.0
    assert solution.stopped_at.tolist() == [t1, t1]


@pytest.mark.parametrize("joint", [False, True])
def test_stops_cost_no_accuracy_and_are_not_the_end(joint):
    controller = PIDController(1e-9, 1e-9, joint=joint, step_ts=[0.25, 0.5])
    _, solution = seen_times(controller)
    torch.testing.assert_close(solution.final, torch.full((2, 1), -1.0, dtype=F64).exp(), rtol=1e-8, atol=0.0)
    assert solution.succeeded.all()


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stepper", [Tsit5(), Dopri5(), Heun()])
def test_a_jump_that_is_named_is_stepped_over_exactly_and_without_rejections(joint, stepper):
    problem = ODEProblem(switched, torch.zeros(2, 1, dtype=F64), 0.0, 1.0)
    named = solve(problem, stepper, PIDController(1e-10, 1e-10, joint=joint, jump_ts=[JUMP]))
    blind = solve(problem, stepper, PIDController(1e-10, 1e-10, joint=joint))
    torch.testing.assert_close(named.final, torch.ones(2, 1, dtype=F64), rtol=1e-13, atol=0.0)
    assert named.stats.rejected.max() == 0
    assert blind.stats.rejected.min() > 3
    assert named.stats.nfe.max() < blind.stats.nfe.min()


def test_samples_with_stops_are_independent_of_each_other():
    y0 = torch.linspace(0.5, 2.0, 3, dtype=F64)[:, None]
    controller = PIDController(1e-6, 1e-6, step_ts=[0.2], jump_ts=[JUMP])
    t1 = torch.tensor([1.0, -0.3, 0.3], dtype=F64)
    batch = solve(ODEProblem(lambda t, y, c: -y * y, y0, 0.0, t1), Tsit5(), controller)
    for index in range(3):
        rows = slice(index, index + 1)
        alone = solve(ODEProblem(lambda t, y, c: -y * y, y0[rows], 0.0, t1[rows]), Tsit5(), controller)
        assert torch.equal(alone.final[0], batch.final[index])
        assert alone.stats.nfe[0] == batch.stats.nfe[index]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("side", [torch.lt, torch.le])
@pytest.mark.parametrize("stepper", [Tsit5(), Dopri5(), Rodas5P(), Kvaerno5(), Auto()], ids=lambda s: type(s).__name__)
def test_a_jump_is_seen_from_both_sides_whatever_the_field_returns_at_it(joint, span, side, stepper):
    def field(t, y, cond):
        return torch.where(side(t, torch.tensor(0.5, dtype=F64)), 1.0, -3.0).to(F64).reshape(-1, 1).expand_as(y)

    problem = ODEProblem(field, torch.zeros(2, 1, dtype=F64), *span)
    controller = PIDController(1e-9, 1e-9, joint=joint, jump_ts=[0.5])
    solution = solve(problem, stepper, controller, SaveAt(ts=[0.5, span[1]]))
    middle = 0.5 if span[0] < span[1] else 1.5
    wanted = torch.tensor([middle, -1.0 if span[0] < span[1] else 1.0], dtype=F64)
    torch.testing.assert_close(solution.ys[:, :, 0], wanted[:, None].expand(2, 2), rtol=1e-13, atol=0)
    assert solution.stats.rejected.max() == 0


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stepper", [Tsit5(), Rodas4(), Rodas5P(), Kvaerno5()], ids=lambda s: type(s).__name__)
def test_to_name_a_jump_where_there_is_none_costs_next_to_nothing(joint, stepper):
    """Time is as before everywhere else: for derivatives in it, and for stages beyond the end of a step."""
    problem = ODEProblem(lambda t, y, c: -y + torch.cos(8 * t).reshape(-1, 1), torch.ones(1, 1, dtype=F64), 0.0, 2.0)
    named, stopped = (
        solve(problem, stepper, PIDController(1e-7, 1e-7, joint=joint, **{key: [0.5]}))
        for key in ("jump_ts", "step_ts")
    )
    exact = (math.cos(16) + 8 * math.sin(16)) / 65 + 64 / 65 * math.exp(-2)
    assert float(named.final) == pytest.approx(exact, abs=1e-6)
    tried = [int(found.stats.accepted + found.stats.rejected) for found in (named, stopped)]
    assert tried[0] <= 1.4 * tried[1]


def _second_order(field, span):
    rest = torch.zeros(2, 1, dtype=F64)
    return SecondOrderProblem(field, rest, rest, *span)


def _semilinear(field, span):
    minus_one = DiagonalLinear(torch.tensor([-1.0], dtype=F64))
    return SemilinearProblem(minus_one, field, torch.ones(2, 1, dtype=F64), *span)


def _without_noise(field, span):
    tree = VirtualBrownianTree(3, min(span), max(span))
    nothing = torch.zeros(2, 1, dtype=F64)
    return SDEProblem(field, lambda t, y, c: 0 * y, nothing, *span, noise=tree)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("side", [torch.lt, torch.le])
@pytest.mark.parametrize(
    ("make", "stepper"), [(_second_order, Tsit5()), (_semilinear, Tsit5()), (_without_noise, ShARK())]
)
def test_jumps_are_stepped_over_in_every_kind_of_problem(make, stepper, side, span):
    def field(t, y, cond):
        return torch.where(side(t, torch.tensor(0.5, dtype=F64)), 1.0, 11.0).to(F64).reshape(-1, 1).expand_as(y)

    named = solve(make(field, span), stepper, PIDController(1e-6, 1e-6, jump_ts=[0.5]))
    blind = solve(make(field, span), stepper, PIDController(1e-6, 1e-6))
    assert named.succeeded.all()
    assert named.stats.rejected.max() <= 1
    assert blind.stats.rejected.min() > 4


def test_a_state_just_beyond_a_jump_is_kept():
    ts = [0.5, math.nextafter(0.5, 1.0), 1.0]
    problem = ODEProblem(lambda t, y, c: -y, torch.ones(2, 1, dtype=F64), 0.0, 1.0)
    for joint in (False, True):
        solution = solve(problem, Tsit5(), PIDController(1e-9, 1e-9, joint=joint, jump_ts=[0.5]), SaveAt(ts=ts))
        wanted = (-torch.tensor(ts, dtype=F64)).exp()[:, None, None].expand(3, 2, 1)
        torch.testing.assert_close(solution.ys, wanted, rtol=1e-8, atol=0)
