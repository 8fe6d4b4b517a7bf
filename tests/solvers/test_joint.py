"""Joint control: one norm and one clock, what it hides, and where it is the same as per-sample control."""

import pytest
import torch

from isocline.solvers import Dopri5, ODEProblem, PIDController, SaveAt, Status, Tsit5, solve
from isocline.solvers.gradient import BacksolveAdjoint, CheckpointedAdjoint, DiscreteAdjoint

F64 = torch.float64


def turning(t, y, rate):
    return torch.stack([-rate * y[:, 1], rate * y[:, 0]], 1)


def one_hard_among_easy(batch):
    rate = torch.full((batch,), 0.01, dtype=F64)
    rate[batch // 2] = 40.0
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64).repeat(batch, 1)
    exact = torch.stack([torch.cos(rate), torch.sin(rate)], 1)
    return ODEProblem(turning, y0, 0.0, 1.0, rate), exact


def test_a_norm_over_the_batch_hides_one_hard_sample_and_norms_of_samples_do_not():
    problem, exact = one_hard_among_easy(1024)
    apart = (solve(problem, Tsit5(), PIDController(1e-6, 1e-6)).final - exact).abs().max()
    together = (solve(problem, Tsit5(), PIDController(1e-6, 1e-6, joint=True)).final - exact).abs().max()
    alone = ODEProblem(turning, problem.y0[:1], 0.0, 1.0, problem.cond[512:513])
    single = (solve(alone, Tsit5(), PIDController(1e-6, 1e-6)).final - exact[512]).abs().max()
    assert apart == single
    assert together > 8 * apart


@pytest.mark.parametrize("stepper", [Tsit5(), Dopri5()])
def test_for_one_sample_joint_control_takes_the_same_steps(stepper):
    y0 = torch.tensor([[1.0, 0.5]], dtype=F64)
    problem = ODEProblem(turning, y0, 0.0, 3.0, torch.tensor([4.0], dtype=F64))
    apart = solve(problem, stepper, PIDController(1e-7, 1e-8))
    together = solve(problem, stepper, PIDController(1e-7, 1e-8, joint=True))
    torch.testing.assert_close(together.final, apart.final, rtol=1e-12, atol=1e-12)
    assert together.stats.nfe.tolist() == apart.stats.nfe.tolist()
    assert together.stats.accepted.tolist() == apart.stats.accepted.tolist()


def test_all_samples_share_steps_statistics_and_saved_times():
    problem, exact = one_hard_among_easy(5)
    solution = solve(problem, Tsit5(), PIDController(1e-8, 1e-8, joint=True), SaveAt(steps=True))
    assert len(solution.ts) == len(solution.ys) == solution.stats.accepted[0] + 1
    assert solution.ts[0] == 0.0
    assert solution.ts[-1] == 1.0
    assert len(set(solution.stats.nfe.tolist())) == 1
    torch.testing.assert_close(solution.final, exact, rtol=0.0, atol=1e-6)


def test_a_field_that_is_not_finite_ends_the_joint_solve_with_a_status():
    def field(t, y, cond):
        return torch.where(t > 0.5, torch.nan, -y)

    y0 = torch.ones(3, 1, dtype=F64)
    solution = solve(ODEProblem(field, y0, 0.0, 1.0), Tsit5(), PIDController(1e-6, 1e-8, joint=True))
    assert solution.status.tolist() == [Status.NON_FINITE] * 3
    assert solution.ys.shape == (1, 3, 1)
    assert solution.stopped_at.tolist() == pytest.approx([0.5] * 3, abs=1e-6)


def test_samples_with_their_own_spans_are_refused():
    y0, t1 = torch.ones(2, 1, dtype=F64), torch.tensor([1.0, 2.0], dtype=F64)
    with pytest.raises(ValueError, match="one span"):
        solve(ODEProblem(lambda t, y, c: -y, y0, 0.0, t1), Tsit5(), PIDController(joint=True))


@pytest.mark.parametrize("gradient", [None, DiscreteAdjoint(), CheckpointedAdjoint(), BacksolveAdjoint()])
def test_a_span_that_is_a_point_ends_where_it_starts(gradient):
    y0 = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    rate = torch.tensor([4.0], dtype=F64, requires_grad=True)
    solution = solve(ODEProblem(turning, y0, 1.0, 1.0, rate), Tsit5(), PIDController(joint=True), gradient=gradient)
    assert solution.succeeded.all()
    assert torch.equal(solution.final, y0)
    by_y0, by_rate = torch.autograd.grad(solution.final.sum(), [y0, rate], allow_unused=True)
    assert torch.equal(by_y0, torch.ones_like(y0))
    assert by_rate is None or not bool(by_rate.any())
