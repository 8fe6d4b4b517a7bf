"""Bad fields and bad input: a status for each sample, errors that say where, the others right to the last bit."""

import math

import pytest
import torch

from isocline.solvers import (
    ConstantSteps,
    Dopri5,
    Dopri8,
    Euler,
    FixedGrid,
    Kvaerno5,
    ODEProblem,
    PIDController,
    Rodas5P,
    SaveAt,
    SolverError,
    Status,
    Tsit5,
    solve,
    solve_strict,
)
from isocline.solvers.explicit import Heun

F64 = torch.float64
CONTROL = PIDController(1e-6, 1e-8)


def power(t, y, exponent):
    """y' = y^p: with p = 2 it leaves every bound at t = 1 / y(0)."""
    return torch.where(exponent[:, None] == 2, y * y, -y)


def test_a_sample_that_blows_up_gets_its_status_and_the_others_stay_right_to_the_last_bit():
    exponent = torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=F64)
    y0 = torch.tensor([[1.0], [1.0], [0.3], [4.0]], dtype=F64)
    batch = solve(ODEProblem(power, y0, 0.0, 2.0, exponent), Tsit5(), CONTROL)
    assert batch.ys.shape == (1, 4, 1)
    assert batch.succeeded.tolist() == [True, False, True, False]
    assert batch.stopped_at.tolist() == pytest.approx([2.0, 1.0, 2.0, 0.25], abs=1e-3)
    assert batch.final[[1, 3]].isnan().all()
    for index in (0, 2):
        alone = solve(ODEProblem(power, y0[[index]], 0.0, 2.0, exponent[[index]]), Tsit5(), CONTROL)
        assert torch.equal(alone.final[0], batch.final[index])


def test_failure_is_not_a_shorter_result():
    exponent = torch.tensor([2.0, 1.0], dtype=F64)
    ts = [0.0, 0.5, 1.5, 2.0]
    problem = ODEProblem(power, torch.ones(2, 1, dtype=F64), 0.0, 2.0, exponent)
    solution = solve(problem, Dopri5(), CONTROL, SaveAt(ts=ts))
    assert solution.ys.shape == (4, 2, 1)
    assert solution.ys[:2, 0, 0].tolist() == pytest.approx([1.0, 2.0], rel=1e-4)
    assert solution.ys[2:, 0].isnan().all()
    torch.testing.assert_close(solution.ys[:, 1, 0], torch.exp(-torch.tensor(ts, dtype=F64)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_a_trial_step_that_is_not_finite_is_tried_again_smaller(joint):
    # The first step of 1 lands where log is no number; the solution, exp(-t) from 1, never goes there.
    def field(t, y, cond):
        return -torch.exp(torch.log(y))

    problem = ODEProblem(field, torch.ones(1, 1, dtype=F64), 0.0, 3.0)
    solution = solve(problem, Tsit5(), PIDController(1e-8, 1e-10, dt0=3.0, joint=joint))
    assert solution.status.tolist() == [Status.SUCCESS]
    assert solution.stats.rejected.item() > 0
    assert solution.final.item() == pytest.approx(math.exp(-3), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_that_is_not_finite_fails_its_sample_only(bad):
    y0 = torch.tensor([[1.0], [bad], [2.0]], dtype=F64)
    solution = solve(ODEProblem(lambda t, y, c: -y, y0, 0.0, 1.0), Tsit5(), CONTROL)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE, Status.SUCCESS]
    assert solution.stats.accepted[1] == 0


def test_errors_name_sample_time_step_and_reason():
    def field(t, y, flag):
        return torch.where((flag[:, None] > 0) & (t[:, None] > 0.5), torch.nan, -y)

    flag = torch.tensor([0.0, 1.0], dtype=F64)
    with pytest.raises(SolverError, match=r"1 of 2 samples failed: sample 1 at t=0\.5.* after \d+ steps.*not finite"):
        solve_strict(ODEProblem(field, torch.ones(2, 1, dtype=F64), 0.0, 1.0, flag), Tsit5(), CONTROL)
    times = torch.tensor([0.0, 1.0], dtype=F64)

    def late(t, y, cond):
        return torch.where(t > 0.45, torch.nan, -y)

    problem = ODEProblem(late, torch.ones(2, 1, dtype=F64), 0.0, 1.0)
    with pytest.raises(SolverError, match=r"sample 0 at t=0\.6 after 5 steps.*not finite"):
        solve_strict(problem, Euler(), ConstantSteps(10))
    with pytest.raises(SolverError, match=r"sample 0 at t=1 after 0 steps"):
        solve_strict(ODEProblem(lambda t, y, c: y / 0, torch.ones(1, 1), 0.0, 1.0), Euler(), FixedGrid(times))


def test_steps_that_underflow_end_in_a_status_without_using_up_all_steps():
    # An error that no step makes small: noise instead of a slope.
    def field(t, y, cond):
        late = t[:, None] > math.sqrt(0.5)
        return torch.where(late, 1e20 * torch.sin(1e17 * t[:, None]), 1.0).to(y.dtype).expand_as(y)

    control = PIDController(1e-6, 1e-9, max_steps=10_000)
    solution = solve(ODEProblem(field, torch.zeros(1, 1, dtype=F64), 0.0, 1.0), Tsit5(), control)
    assert solution.status.tolist() == [Status.STEP_TOO_SMALL]
    assert solution.stopped_at.item() == pytest.approx(math.sqrt(0.5), rel=1e-12)
    assert (solution.stats.accepted + solution.stats.rejected).item() < 400


@pytest.mark.parametrize("stepper", [Tsit5(), Dopri5(), Dopri8(), Heun()])
@pytest.mark.parametrize("t1", [1.0, 0.1 + 0.2, -7.3])
def test_the_last_step_ends_at_t1_and_is_no_interpolation(stepper, t1):
    seen = []

    def field(t, y, cond):
        seen.extend(t.tolist())
        return torch.cos(t)[:, None].expand_as(y)

    solution = solve(ODEProblem(field, torch.zeros(1, 1, dtype=F64), 0.0, t1), stepper, PIDController(1e-3, 1e-3))
    assert solution.stopped_at.tolist() == [t1]
    low, high = sorted((0.0, t1))
    assert low <= min(seen)
    assert max(seen) <= high
    # The end state is that of the step: with the end asked for by name, and with a point just before it as well.
    named = solve(
        ODEProblem(field, torch.zeros(1, 1, dtype=F64), 0.0, t1),
        stepper,
        PIDController(1e-3, 1e-3),
        SaveAt(ts=[t1 * (1 - 1e-9), t1]),
    )
    assert torch.equal(named.final, solution.final)


def test_tsit5_advances_with_the_weights_of_order_five():
    # One step of y' = 5 t⁴ is exact for weights of order 5, and off by 5·Σ b̂ c⁴ - 1 for the embedded ones.
    def field(t, y, cond):
        return (5 * t**4).reshape(-1, 1).expand_as(y)

    for stepper in (Tsit5(), Dopri5()):
        problem = ODEProblem(field, torch.zeros(1, 1, dtype=F64), 0.0, 1.0)
        assert solve(problem, stepper, ConstantSteps(1)).final.item() == pytest.approx(1.0, abs=1e-13)
        result = stepper.step(problem, torch.tensor(0.0), torch.tensor(1.0), problem.y0, torch.zeros(1, 1, dtype=F64))
        assert abs(result.error.item()) > 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedGrid([0.0, 2.0, 1.0]), "not strictly monotone"),
        (lambda: FixedGrid([0.0, 1.0, 1.0]), "not strictly monotone"),
        (lambda: FixedGrid([0.0]), "at least two times"),
        (lambda: ConstantSteps(0), "n=0"),
        (lambda: SaveAt(ts=[]), "non-empty"),
        (lambda: SaveAt(ts=[0.0, math.nan]), "finite"),
        (lambda: SaveAt(ts=[0.0], steps=True), "choose one"),
        (lambda: PIDController(rtol=0.0, atol=0.0), "atol"),
        (lambda: ODEProblem(power, torch.zeros(0, 1), 0.0, 1.0), "add a batch axis"),
        (lambda: ODEProblem(power, torch.tensor(1.0), 0.0, 1.0), "add a batch axis"),
    ],
)
def test_bad_values_are_refused_by_name_with_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_fields_and_times_of_the_wrong_shape_are_refused():
    y0 = torch.ones(3, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"field returned shape \(3,\) for a state of shape \(3, 2\)"):
        solve(ODEProblem(lambda t, y, c: y[:, 0], y0, 0.0, 1.0), Tsit5(), CONTROL)
    with pytest.raises(ValueError, match=r"a time has shape \(2,\); expected a float or \(3,\)"):
        solve(ODEProblem(lambda t, y, c: -y, y0, 0.0, torch.ones(2)), Tsit5(), CONTROL)
    with pytest.raises(ValueError, match=r"-0\.5, outside the span from 0\.0 to 1\.0"):
        solve(ODEProblem(lambda t, y, c: -y, y0, 0.0, 1.0), Tsit5(), CONTROL, SaveAt(ts=[-0.5]))
    with pytest.raises(TypeError, match="int64"):
        ODEProblem(lambda t, y, c: -y, torch.ones(1, 1, dtype=torch.int64), 0.0, 1.0)


@pytest.mark.parametrize("stepper", [Tsit5(), Rodas5P(), Kvaerno5()], ids=lambda stepper: type(stepper).__name__)
@pytest.mark.parametrize("control", [CONTROL, ConstantSteps(4)], ids=["adaptive", "grid"])
def test_a_slope_wider_than_the_state_is_refused_by_dtype_with_the_cure(stepper, control):
    def solved(field):
        return solve(ODEProblem(field, torch.ones(3, 2), 0.0, 1.0), stepper, control)

    def wide(t, y, c):
        return torch.cos(t).reshape(-1, 1).expand_as(y)

    message = r"field returned dtype torch.float64 for a state of dtype torch.float32; .*\.to\(y\.dtype\)"
    with pytest.raises(TypeError, match=message):
        solved(wide)
    with pytest.raises(TypeError, match=r"dtype torch.complex64 for .* make the state complex"):
        solved(lambda t, y, c: 1j * y)
    end = solved(lambda t, y, c: wide(t, y, c).to(y.dtype)).final
    assert end.dtype == torch.float32
    torch.testing.assert_close(end, torch.full_like(end, 1 + math.sin(1)), rtol=1e-4, atol=0)


def test_a_slope_narrower_than_the_state_keeps_the_dtype_of_the_state():
    end = solve(ODEProblem(lambda t, y, c: y.bfloat16(), torch.ones(1, 1), 0.0, 1.0), Euler(), ConstantSteps(2)).final
    assert end.dtype == torch.float32
    assert end.item() == 2.25


@pytest.mark.parametrize("name", ["t0", "t1"])
def test_a_time_that_is_no_number_is_a_status_of_its_sample(name):
    time = torch.tensor([0.5, math.nan], dtype=F64)
    span = {"t0": 0.0, "t1": 1.0, name: time}
    y0 = torch.ones(2, 1, dtype=F64)
    solution = solve(ODEProblem(lambda t, y, c: -y, y0, **span), Tsit5(), CONTROL)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE]
    assert float(solution.final[0]) == pytest.approx(math.exp(-0.5), rel=1e-5)


def test_shapes_that_do_not_fit_are_named_with_what_would():
    def field(t, y, cond):
        return -y

    y0 = torch.ones(2, 3, dtype=F64)
    with pytest.raises(ValueError, match=r"t1 has shape \(2, 1\); expected a float or \(2,\)"):
        solve(ODEProblem(field, y0, 0.0, torch.ones(2, 1, dtype=F64)), Euler(), ConstantSteps(2))
    for joint in (False, True):
        wrong = PIDController(1e-6, torch.full((4,), 1e-6, dtype=F64), joint=joint)
        with pytest.raises(ValueError, match=r"atol has shape \(4,\), the state of a sample \(3,\)"):
            solve(ODEProblem(field, y0, 0.0, 1.0), Tsit5(), wrong)
    spans = torch.tensor([2.0, 1.0], dtype=F64)
    with pytest.raises(ValueError, match=r"1\.5, outside the span of sample 1 from 0\.0 to 1\.0"):
        solve(ODEProblem(field, y0, 0.0, spans), Tsit5(), CONTROL, SaveAt(ts=[1.5]))
