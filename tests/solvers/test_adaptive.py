"""Per-sample adaptive control: independence, statistics, failures, save times."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.solvers import (
    RK4,
    Bosh3,
    Dopri5,
    Heun,
    ODEProblem,
    PIDController,
    SaveAt,
    SolverError,
    Status,
    Tsit5,
    solve,
    solve_strict,
)

F64 = torch.float64


def van_der_pol(t, y, mu):
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def decay(t, y, cond):
    return -y


def assert_sample_equals(batch, index, single):
    """Every result of one sample is the same, bit for bit, as when it is solved alone."""
    assert torch.equal(batch.ys[:, index], single.ys[:, 0])
    for name in ("nfe", "accepted", "rejected"):
        assert getattr(batch.stats, name)[index] == getattr(single.stats, name)[0]
    assert batch.status[index] == single.status[0]
    assert batch.stopped_at[index] == single.stopped_at[0]


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.floats(0.1, 100.0), min_size=2, max_size=9),
    st.sampled_from([Bosh3(), Dopri5(), Tsit5()]),
    st.booleans(),
)
def test_a_batch_of_van_der_pol_oscillators_gives_each_its_own_answer_bit_for_bit(mus, stepper, save):
    mu = torch.tensor(mus, dtype=F64)
    y0 = torch.tensor([2.0, 0.0], dtype=F64).expand(len(mus), 2).clone()
    controller = PIDController(rtol=1e-4, atol=1e-6, pcoeff=0.3, icoeff=0.4)
    saveat = SaveAt(ts=[0.0, 0.35, 0.5, 1.0]) if save else SaveAt()
    batch = solve(ODEProblem(van_der_pol, y0, 0.0, 1.0, mu), stepper, controller, saveat)
    for index in range(len(mus)):
        alone = ODEProblem(van_der_pol, y0[:1], 0.0, 1.0, mu[index : index + 1])
        assert_sample_equals(batch, index, solve(alone, stepper, controller, saveat))


def test_stiffer_samples_take_more_steps_and_cost_the_others_nothing():
    mu = torch.tensor([0.1, 100.0], dtype=F64)
    y0 = torch.tensor([[2.0, 0.0], [2.0, 0.0]], dtype=F64)
    calls = {"samples": 0}

    def field(t, y, cond):
        calls["samples"] += len(y)
        return van_der_pol(t, y, cond)

    solution = solve(ODEProblem(field, y0, 0.0, 2.0, mu), Tsit5(), PIDController(1e-5, 1e-7))
    easy, hard = solution.stats.nfe.tolist()
    assert hard > 5 * easy
    assert calls["samples"] == easy + hard


def test_wide_states_are_independent_too():
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(6, 3, 7, 11, generator=generator, dtype=torch.float32)
    scale = torch.logspace(-1, 1.5, 6)

    def field(t, y, cond):
        return torch.sin(y * cond[:, None, None, None])

    controller = PIDController(1e-4, 1e-6)
    batch = solve(ODEProblem(field, y0, 1.0, 0.0, scale), Dopri5(), controller)
    for index in range(6):
        rows = slice(index, index + 1)
        single = solve(ODEProblem(field, y0[rows], 1.0, 0.0, scale[rows]), Dopri5(), controller)
        assert_sample_equals(batch, index, single)


def test_fields_that_need_the_whole_batch_keep_it_and_get_the_same_answer():
    mu = torch.tensor([0.1, 3.0, 40.0], dtype=F64)
    y0 = torch.tensor([2.0, 0.0], dtype=F64).expand(3, 2).clone()
    controller = PIDController(1e-5, 1e-7)
    apart = solve(ODEProblem(van_der_pol, y0, 0.0, 1.0, mu), Tsit5(), controller)
    closed = ODEProblem(lambda t, y, cond: van_der_pol(t, y, mu), y0, 0.0, 1.0, is_separable=False)
    together = solve(closed, Tsit5(), controller)
    assert torch.equal(apart.ys, together.ys)
    assert torch.equal(apart.stats.nfe, together.stats.nfe)


@pytest.mark.parametrize("stepper", [Heun(), Bosh3(), Dopri5(), Tsit5()])
def test_error_is_proportional_to_the_tolerance(stepper):
    y0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=F64)

    def rotation(t, y, cond):
        return torch.stack([-y[:, 1], y[:, 0]], 1)

    exact = torch.stack([torch.cos(torch.tensor(3.0, dtype=F64)), torch.sin(torch.tensor(3.0, dtype=F64))])
    exact = torch.stack([exact, 2 * torch.stack([-exact[1], exact[0]])])
    tolerances = [1e-3, 1e-4, 1e-5] if isinstance(stepper, Heun) else [1e-3, 1e-5, 1e-7, 1e-9]
    for tolerance in tolerances:
        controller = PIDController(rtol=tolerance, atol=tolerance)
        final = solve(ODEProblem(rotation, y0, 0.0, 3.0), stepper, controller).final
        assert 0.01 < float((final - exact).abs().max()) / tolerance < 100


def test_statistics_count_every_call_of_the_field():
    calls = itertools.count()

    def field(t, y, cond):
        next(calls)
        return van_der_pol(t, y, 20.0)

    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    stats = solve(ODEProblem(field, y0, 0.0, 30.0), Dopri5(), PIDController(1e-4, 1e-6)).stats
    assert stats.rejected.item() > 0
    # One call for the first slope, one for the first step, six per trial step.
    assert next(calls) == stats.nfe.item() == 2 + 6 * (stats.accepted + stats.rejected).item()


def test_rejected_steps_continue_at_the_same_place():
    times = []

    def field(t, y, cond):
        times.append(t.item())
        return -50 * y

    y0 = torch.ones(1, 1, dtype=F64)
    controller = PIDController(1e-4, 1e-6, dt0=1.0)
    solution = solve(ODEProblem(field, y0, 0.0, 1.0), Heun(), controller)
    assert solution.stats.rejected.item() > 0
    starts = times[::2]
    assert starts[0] == starts[1] == 0.0
    assert starts == sorted(starts)


def test_both_ends_are_hit_exactly_in_both_directions():
    for t0, t1 in ((0.1, 0.7), (0.7, 0.1)):
        seen = []

        def field(t, y, cond, seen=seen):
            seen.extend(t.tolist())
            return -y

        solution = solve(ODEProblem(field, torch.ones(2, 1), t0, t1), Tsit5(), PIDController(1e-6, 1e-6))
        assert solution.stopped_at.tolist() == [t1, t1]
        assert solution.ts.tolist() == [t1]
        assert min(seen) == min(t0, t1)
        assert max(seen) == max(t0, t1)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-2.0, 3.0), min_size=1, max_size=6), st.booleans())
def test_saved_states_lie_on_the_solution_in_any_order_of_times(ts, forward):
    t0, t1 = (-2.0, 3.0) if forward else (3.0, -2.0)
    y0 = torch.tensor([[1.0], [-0.5]], dtype=F64)
    solution = solve(ODEProblem(decay, y0, t0, t1), Tsit5(), PIDController(1e-8, 1e-10), SaveAt(ts=ts))
    exact = y0 * torch.exp(-(torch.tensor(ts, dtype=F64) - t0))[:, None, None]
    torch.testing.assert_close(solution.ys, exact, rtol=1e-5, atol=1e-6)


def test_saving_within_steps_does_not_change_the_steps():
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    problem = ODEProblem(lambda t, y, cond: van_der_pol(t, y, 5.0), y0, 0.0, 5.0)
    plain = solve(problem, Tsit5(), PIDController(1e-5, 1e-7))
    saved = solve(problem, Tsit5(), PIDController(1e-5, 1e-7), SaveAt(ts=[1.0, 2.0, 5.0]))
    assert torch.equal(saved.final, plain.final)
    assert torch.equal(saved.stats.nfe, plain.stats.nfe)


def test_samples_may_have_their_own_spans():
    y0 = torch.ones(3, 1, dtype=F64)
    t1 = torch.tensor([1.0, -1.0, 0.0], dtype=F64)
    solution = solve(ODEProblem(decay, y0, 0.0, t1), Dopri5(), PIDController(1e-9, 1e-11))
    torch.testing.assert_close(solution.final[:, 0], torch.exp(-t1), rtol=1e-7, atol=0.0)
    assert solution.ts.shape == (1, 3)
    assert solution.stats.accepted[2] == 0
    assert solution.final[2].item() == 1.0


def nan_for_flagged(t, y, flag):
    return torch.where(flag[:, None] > 0, torch.where(t[:, None] > 0.5, torch.nan, -y), -y)


def test_a_field_that_turns_nan_fails_its_sample_and_leaves_the_others_right():
    y0 = torch.ones(3, 2, dtype=F64)
    flag = torch.tensor([0.0, 1.0, 0.0])
    solution = solve(ODEProblem(nan_for_flagged, y0, 0.0, 1.0, flag), Tsit5(), PIDController(1e-6, 1e-8))
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE, Status.SUCCESS]
    assert solution.stopped_at[1].item() == pytest.approx(0.5, abs=1e-6)
    assert solution.final[1].isnan().all()
    alone = solve(ODEProblem(decay, y0[:1], 0.0, 1.0), Tsit5(), PIDController(1e-6, 1e-8))
    assert torch.equal(solution.final[[0, 2]], alone.final.expand(2, 2))


def test_a_trial_step_that_is_not_finite_is_retried_with_a_smaller_one():
    # sqrt is NaN beyond t = 1, where a first step of 5 would sample it; y = -(1 - t)^(3/2) / 1.5 up to a constant.
    def field(t, y, cond):
        return torch.where(t[:, None] <= 1, torch.sqrt(1 - t[:, None]), torch.nan).expand_as(y)

    y0 = torch.zeros(1, 1, dtype=F64)
    solution = solve(ODEProblem(field, y0, 0.0, 0.999), Dopri5(), PIDController(1e-8, 1e-10, dt0=5.0))
    assert solution.status.tolist() == [Status.SUCCESS]
    spoilt = solve(ODEProblem(field, y0, -1.0, 0.999), Dopri5(), PIDController(1e-8, 1e-10, dt0=5.0))
    assert spoilt.final.item() == pytest.approx((2**1.5 - 0.001**1.5) / 1.5, rel=1e-6)


def test_a_blow_up_stops_where_it_happens():
    # y' = y² with y(0) = 1 leaves every bound at t = 1.
    y0 = torch.ones(1, 1, dtype=F64)
    solution = solve(ODEProblem(lambda t, y, cond: y * y, y0, 0.0, 2.0), Tsit5(), PIDController(1e-6, 1e-8))
    assert solution.status.item() in (Status.STEP_TOO_SMALL, Status.NON_FINITE)
    assert solution.stopped_at.item() == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(SolverError, match=r"sample 0 at t=1.*steps"):
        solution.raise_on_failure()


def test_gradients_of_good_samples_survive_a_bad_one():
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def field(t, y, flag):
        bad = (flag > 0)[:, None]
        late = (t > flag)[:, None]
        return -weight * torch.where(bad & late, torch.log(-y.abs()), y)

    y0 = torch.ones(3, 1, dtype=F64, requires_grad=True)
    flag = torch.tensor([0.0, 0.5, 1e-9])
    solution = solve(ODEProblem(field, y0, 1e-3, 1.0, flag), Tsit5(), PIDController(1e-8, 1e-10))
    assert solution.status.tolist() == [Status.SUCCESS, Status.NON_FINITE, Status.NON_FINITE]
    by_weight, by_start = torch.autograd.grad(solution.final[0].sum(), (weight, y0))
    exact = torch.exp(-0.999 * weight.detach())
    torch.testing.assert_close(by_weight, -0.999 * exact, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(by_start[0, 0], exact, rtol=1e-6, atol=0.0)


def test_running_out_of_steps_is_a_status():
    y0 = torch.tensor([[2.0, 0.0], [2.0, 0.0]], dtype=F64)
    mu = torch.tensor([0.1, 100.0], dtype=F64)
    controller = PIDController(1e-6, 1e-8, max_steps=60)
    solution = solve(ODEProblem(van_der_pol, y0, 0.0, 2.0, mu), Tsit5(), controller)
    assert solution.status.tolist() == [Status.SUCCESS, Status.MAX_STEPS]
    assert (solution.stats.accepted + solution.stats.rejected)[1] == 60
    with pytest.raises(SolverError, match="max_steps"):
        solve_strict(ODEProblem(van_der_pol, y0, 0.0, 2.0, mu), Tsit5(), controller)


def test_a_rejected_step_at_dt_min_is_a_status_that_names_it():
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64)
    problem = ODEProblem(lambda t, y, cond: van_der_pol(t, y, 100.0), y0, 0.0, 2.0)
    solution = solve(problem, Tsit5(), PIDController(1e-10, 1e-12, dt0=0.1, dt_min=0.1))
    assert solution.status.tolist() == [Status.STEP_TOO_SMALL]
    with pytest.raises(SolverError, match="dt_min"):
        solution.raise_on_failure()


def test_steps_stay_below_dt_max():
    y0 = torch.ones(1, 1, dtype=F64)
    free = solve(ODEProblem(decay, y0, 0.0, 1.0), Tsit5(), PIDController(1e-3, 1e-3))
    bound = solve(ODEProblem(decay, y0, 0.0, 1.0), Tsit5(), PIDController(1e-3, 1e-3, dt_max=0.05))
    assert free.stats.accepted.item() < 10
    assert 20 <= bound.stats.accepted.item() <= 30


def test_conditions_of_another_batch_size_are_refused():
    with pytest.raises(ValueError, match="cond holds a tensor with leading axis 5"):
        ODEProblem(decay, torch.ones(3, 1), 0.0, 1.0, torch.ones(5))


def test_steppers_without_error_estimate_are_refused():
    with pytest.raises(ValueError, match="RK4 has no error estimate"):
        solve(ODEProblem(decay, torch.ones(1, 1), 0.0, 1.0), RK4(), PIDController())


def test_save_times_outside_the_span_are_refused():
    with pytest.raises(ValueError, match=r"1\.5, outside the span"):
        solve(ODEProblem(decay, torch.ones(1, 1), 0.0, 1.0), Tsit5(), PIDController(), SaveAt(ts=[0.5, 1.5]))


@pytest.mark.parametrize(
    ("key", "value"), [("rtol", -1.0), ("safety", 1.5), ("factor_min", 1.0), ("max_steps", 0), ("dt0", 0.0)]
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        PIDController(**{key: value})
