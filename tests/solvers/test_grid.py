"""The loop on a grid: times, saving, statistics, failures, the stepper protocol."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.solvers import (
    AbstractStepper,
    ConstantSteps,
    Euler,
    FixedGrid,
    Heun,
    ODEProblem,
    SaveAt,
    SolverError,
    Status,
    StepResult,
    solve,
    solve_strict,
)

F64 = torch.float64


class Recording(AbstractStepper):
    """A stub that counts its steps in the state and writes down its times."""

    def __init__(self):
        self.spans = []

    def init(self, problem, t0, y0):
        return 0

    def step(self, problem, t0, t1, y0, carry):
        self.spans.append((t0.item(), t1.item()))
        return StepResult(y0 + 1, carry=carry + 1, nfe=carry)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8, unique=True), st.booleans())
def test_every_interval_is_stepped_once_in_order(times, reverse):
    times = sorted(times, reverse=reverse)
    stepper = Recording()
    problem = ODEProblem(lambda t, y, c: y, torch.zeros(2, 1), times[0], times[-1])
    solution = solve(problem, stepper, FixedGrid(times), SaveAt(steps=True))
    assert stepper.spans == list(itertools.pairwise(times))
    assert solution.ts.tolist() == times
    assert solution.ys[:, 0, 0].tolist() == list(range(len(times)))
    assert solution.stats.nfe.tolist() == [sum(range(len(times) - 1))] * 2
    assert solution.stats.accepted.tolist() == [len(times) - 1] * 2
    assert solution.stats.rejected.tolist() == [0, 0]
    assert solution.status.tolist() == [Status.SUCCESS] * 2


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.integers(1, 40))
def test_constant_steps_hit_both_ends_exactly(t0, t1, n):
    grid = ConstantSteps(n).times(ODEProblem(lambda t, y, c: y, torch.zeros(1, 1), t0, t1))
    assert grid[0].item() == t0
    assert grid[-1].item() == t1
    assert len(grid) == n + 1


def test_constant_steps_serve_samples_with_their_own_spans():
    t1 = torch.tensor([1.0, -0.5], dtype=F64)
    y0 = torch.ones(2, 1, dtype=F64)
    solution = solve(ODEProblem(lambda t, y, c: -y, y0, 0.0, t1), Heun(), ConstantSteps(100), SaveAt(steps=True))
    torch.testing.assert_close(solution.final[:, 0], torch.exp(-t1), rtol=1e-4, atol=0.0)
    assert solution.ts.shape == (101, 2)
    assert torch.equal(solution.stopped_at, t1)


def test_states_on_the_grid_are_saved_exactly_and_others_by_dense_output():
    y0 = torch.ones(1, 1, dtype=F64)
    problem = ODEProblem(lambda t, y, c: -y, y0, 1.0, 0.0)
    every = solve(problem, Heun(), ConstantSteps(4), SaveAt(steps=True))
    some = solve(problem, Heun(), ConstantSteps(4), SaveAt(ts=[0.0, 0.5, 0.6, 1.0]))
    assert torch.equal(some.ys[[0, 1, 3]], every.ys[[4, 2, 0]])
    assert every.ys[1].item() < some.ys[2].item() < every.ys[2].item()
    # The interval with 0.6 in it pays one evaluation for the slope at its end.
    assert some.stats.nfe.item() == every.stats.nfe.item() + 1


def test_saving_between_grid_points_needs_dense_output():
    problem = ODEProblem(lambda t, y, c: y, torch.zeros(1, 1), 0.0, 1.0)
    with pytest.raises(ValueError, match="without dense output"):
        solve(problem, Recording(), ConstantSteps(2), SaveAt(ts=[0.25]))


def test_a_state_that_is_not_finite_is_a_status_of_its_sample():
    def field(t, y, cond):
        return torch.where((cond > 0)[:, None] & (t < 0.5), torch.inf, -y)

    problem = ODEProblem(field, torch.ones(2, 1), 1.0, 0.0, torch.tensor([0.0, 1.0]))
    solution = solve(problem, Euler(), ConstantSteps(10))
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE]
    assert solution.final[0].item() == pytest.approx(1.1**10, rel=1e-5)


def test_the_strict_entry_point_names_step_time_and_sample():
    def field(t, y, cond):
        return torch.where((cond > 0)[:, None] & (t < 0.45), torch.inf, -y)

    problem = ODEProblem(field, torch.ones(2, 1), 1.0, 0.0, torch.tensor([0.0, 1.0]))
    with pytest.raises(SolverError, match=r"sample 1 at t=0\.3 after 6 steps"):
        solve_strict(problem, Euler(), ConstantSteps(10))


def test_the_strict_entry_point_returns_a_good_solution():
    problem = ODEProblem(lambda t, y, c: -y, torch.ones(2, 1), 1.0, 0.0)
    assert torch.equal(
        solve_strict(problem, Euler(), ConstantSteps(10)).final, solve(problem, Euler(), ConstantSteps(10)).final
    )


@pytest.mark.parametrize("times", [[0.0], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0], [0.0, float("nan")]])
def test_grids_that_are_not_monotone_are_refused(times):
    with pytest.raises(ValueError, match="times"):
        FixedGrid(times)


def test_a_grid_must_end_where_the_problem_does():
    problem = ODEProblem(lambda t, y, c: -y, torch.ones(1, 1), 1.0, 0.0)
    with pytest.raises(ValueError, match="t1"):
        solve(problem, Euler(), FixedGrid([1.0, 0.5, 0.1]))


@pytest.mark.parametrize("state", [torch.ones(2, 1, dtype=torch.int64), [1.0]])
def test_states_that_are_not_floating_are_refused(state):
    with pytest.raises(TypeError, match="y0"):
        ODEProblem(lambda t, y, c: y, state, 0.0, 1.0)


def test_controllers_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="controller is a int"):
        solve(ODEProblem(lambda t, y, c: y, torch.ones(1, 1), 0.0, 1.0), Euler(), 10)
