"""Events: one time for each sample, found on the dense output, differentiable."""

import math

import pytest
import torch

from isocline.solvers import (
    ConstantSteps,
    Event,
    Heun,
    MarkovProblem,
    ODEProblem,
    PIDController,
    SaveAt,
    SDEProblem,
    ShARK,
    Status,
    TauLeaping,
    Tsit5,
    VirtualBrownianTree,
    solve,
)

F64 = torch.float64


def fall(t, y, gravity):
    return torch.stack([y[:, 1], -gravity], 1)


def ground(t, y, cond):
    return y[:, 0]


HEIGHT = torch.tensor([1.0, 5.0, 20.0, 0.3], dtype=F64)
GRAVITY = torch.tensor([9.81, 1.62, 9.81, 24.8], dtype=F64)
CONTROL = PIDController(1e-9, 1e-9)


def drop(height, gravity, t1=50.0, event=None, saveat=None):
    y0 = torch.stack([height, torch.zeros_like(height)], 1)
    event = Event(ground, direction=-1) if event is None else event
    return solve(ODEProblem(fall, y0, 0.0, t1, gravity), Tsit5(), CONTROL, saveat or SaveAt(), event=event)


def test_every_sample_has_its_own_event_time_and_state():
    solution = drop(HEIGHT, GRAVITY)
    assert solution.status.tolist() == [Status.EVENT] * 4
    exact = (2 * HEIGHT / GRAVITY).sqrt()
    torch.testing.assert_close(solution.stopped_at, exact, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(solution.ts[0], exact, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(solution.final[:, 1], -GRAVITY * exact, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(solution.final[:, 0], torch.zeros(4, dtype=F64), rtol=0.0, atol=1e-10)


def test_samples_without_an_event_go_on_to_the_end():
    solution = drop(HEIGHT, GRAVITY, t1=1.0)
    exact = (2 * HEIGHT / GRAVITY).sqrt()
    wanted = [Status.EVENT if time < 1 else Status.SUCCESS for time in exact.tolist()]
    assert solution.status.tolist() == wanted
    assert Status.SUCCESS in wanted
    torch.testing.assert_close(solution.stopped_at, exact.clamp(max=1.0), rtol=1e-10, atol=0.0)


def test_an_event_found_in_a_batch_is_the_one_found_alone():
    batch = drop(HEIGHT, GRAVITY)
    for index in range(4):
        alone = drop(HEIGHT[index : index + 1], GRAVITY[index : index + 1])
        assert alone.stopped_at[0] == batch.stopped_at[index]
        assert torch.equal(alone.final[0], batch.final[index])
        assert alone.stats.nfe[0] == batch.stats.nfe[index]


@pytest.mark.parametrize(("direction", "turns"), [(-1, 0.5), (1, 1.5), (0, 0.5)])
def test_only_crossings_in_the_wanted_direction_count(direction, turns):
    def turning(t, y, cond):
        return torch.stack([-y[:, 1], y[:, 0]], 1)

    event = Event(lambda t, y, cond: y[:, 0], direction=direction)
    problem = ODEProblem(turning, torch.tensor([[1.0, 0.0]], dtype=F64), 0.0, 20.0)
    solution = solve(problem, Tsit5(), CONTROL, event=event)
    assert solution.stopped_at.item() == pytest.approx(turns * math.pi, rel=1e-7)


def test_event_times_have_gradients_in_start_and_condition():
    height, gravity = HEIGHT.clone().requires_grad_(), GRAVITY.clone().requires_grad_()
    times = drop(height, gravity).stopped_at
    by_height, by_gravity = torch.autograd.grad(times.sum(), (height, gravity))
    torch.testing.assert_close(by_height, 1 / (2 * HEIGHT * GRAVITY).sqrt(), rtol=1e-7, atol=0.0)
    torch.testing.assert_close(by_gravity, -0.5 * (2 * HEIGHT / GRAVITY**3).sqrt(), rtol=1e-7, atol=0.0)


def test_states_saved_before_the_event_are_kept_and_later_ones_are_no_numbers():
    ts = [0.0, 0.3, 1.0]
    solution = drop(HEIGHT[:2], GRAVITY[:2], saveat=SaveAt(ts=ts))
    exact = HEIGHT[:2] - 0.5 * GRAVITY[:2] * torch.tensor(ts, dtype=F64)[:, None] ** 2
    torch.testing.assert_close(solution.ys[:2, :, 0], exact[:2], rtol=1e-8, atol=1e-10)
    assert solution.ys[2, 0].isnan().all()
    assert solution.ys[2, 1, 0].item() == pytest.approx(exact[2, 1].item(), rel=1e-8)


def test_a_grid_stops_at_the_event_of_its_sample():
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    problem = ODEProblem(fall, y0, 0.0, 1.0, GRAVITY[:1])
    solution = solve(problem, Heun(), ConstantSteps(50), event=Event(ground))
    assert solution.status.tolist() == [Status.EVENT]
    assert solution.stopped_at.item() == pytest.approx(math.sqrt(2 / 9.81), rel=1e-6)


def test_one_clock_and_several_samples_are_refused():
    y0 = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=F64)
    with pytest.raises(ValueError, match="batch of one"):
        solve(ODEProblem(fall, y0, 0.0, 1.0, GRAVITY[:2]), Heun(), ConstantSteps(5), event=Event(ground))


def test_conditions_of_another_shape_and_unknown_directions_are_refused():
    with pytest.raises(ValueError, match="one value per sample"):
        drop(HEIGHT, GRAVITY, event=Event(lambda t, y, cond: y))
    with pytest.raises(ValueError, match="direction=2"):
        Event(ground, direction=2)


@pytest.mark.parametrize("direction", [0, 1, -1])
def test_balls_that_start_again_where_they_landed_bounce(direction):
    # Rounding leaves some of them just below the ground, which they then cross within no time at all.
    height = torch.arange(40, dtype=F64) / 7 + 0.5
    first = drop(height, torch.ones(40, dtype=F64), event=Event(ground))
    again = torch.stack([first.final[:, 0], -first.final[:, 1]], 1)
    problem = ODEProblem(fall, again, first.stopped_at, first.stopped_at + 50, torch.ones(40, dtype=F64))
    bounced = solve(problem, Tsit5(), CONTROL, event=Event(ground, direction))
    assert bool((bounced.succeeded | (bounced.status == int(Status.EVENT))).all())
    assert not bool(bounced.final.isnan().any())
    if direction == -1:
        exact = 2 * (2 * height).sqrt()
        torch.testing.assert_close(bounced.stopped_at - first.stopped_at, exact, rtol=1e-8, atol=0)


@pytest.mark.parametrize("joint", [False, True])
def test_an_event_within_rounding_of_the_start_is_an_event(joint):
    problem = ODEProblem(lambda t, y, c: torch.ones_like(y), torch.full((1, 1), -1e-17, dtype=F64), 1.0, 4.0)
    solution = solve(problem, Tsit5(), PIDController(1e-9, 1e-9, joint=joint), event=Event(ground))
    assert solution.status.tolist() == [Status.EVENT]
    assert float(solution.stopped_at) == 1.0
    assert float(solution.final) == pytest.approx(0.0, abs=1e-16)


def test_a_batch_that_stays_whole_finds_the_event_of_each_sample():
    level = torch.tensor([1.0, 2.0, 9.0, 3.0], dtype=F64)
    problem = ODEProblem(
        lambda t, y, c: torch.ones_like(y), torch.zeros(4, 1, dtype=F64), 0.0, 4.0, level, is_separable=False
    )
    solution = solve(problem, Tsit5(), CONTROL, event=Event(lambda t, y, c: y[:, 0] - c))
    torch.testing.assert_close(solution.stopped_at, level.clamp(max=4.0), rtol=1e-12, atol=0)
    assert solution.status.tolist() == [Status.EVENT, Status.EVENT, Status.SUCCESS, Status.EVENT]


def test_a_grid_that_keeps_its_steps_ends_at_the_event_of_a_sample_with_a_span_of_its_own():
    span = torch.tensor([4.0], dtype=F64)
    problem = ODEProblem(lambda t, y, c: torch.ones_like(y), torch.full((1, 1), -2.5, dtype=F64), 0 * span, span)
    solution = solve(problem, Heun(), ConstantSteps(4), SaveAt(steps=True), event=Event(ground))
    assert solution.ts.flatten().tolist() == pytest.approx([0.0, 1.0, 2.0, 2.5])


def test_nothing_is_recorded_where_nothing_requires_grad():
    solution = drop(HEIGHT, GRAVITY)
    assert not solution.stopped_at.requires_grad
    assert not solution.final.requires_grad


def test_the_time_at_which_noise_crosses_a_level_is_that_of_its_path():
    tree = VirtualBrownianTree(3, 0.0, 5.0)
    y0 = torch.ones(6, 1, dtype=F64)
    problem = SDEProblem(lambda t, y, c: -y, lambda t, y, c: torch.ones_like(y), y0, 0.0, 5.0, noise=tree)
    solution = solve(problem, ShARK(), PIDController(1e-4, 1e-4), event=Event(ground))
    assert solution.status.tolist() == [Status.EVENT] * 6
    # The same paths without the event are at the level then.
    for sample, time in enumerate(solution.stopped_at.tolist()):
        plain = solve(problem, ShARK(), PIDController(1e-4, 1e-4), SaveAt(ts=[time]))
        assert float(plain.ys[0, sample]) == pytest.approx(0.0, abs=0.02)


def test_tokens_have_no_events():
    problem = MarkovProblem(
        lambda t, z, c: torch.zeros(*z.shape, 2), torch.zeros(1, 1, dtype=torch.int64), 0.0, 1.0,
        generator=torch.Generator(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="states of real numbers"):
        solve(problem, TauLeaping(), ConstantSteps(2), event=Event(ground))
