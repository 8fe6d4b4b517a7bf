"""Markov-chain steps against the matrix exponential of small generators."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.solvers import (
    ConstantSteps,
    MarkovEuler,
    MarkovProblem,
    ODEProblem,
    SaveAt,
    SolverError,
    Status,
    TauLeaping,
    solve,
)
from isocline.solvers.markov import draw_symbols

F64 = torch.float64
GENERATOR = torch.tensor([[-1.2, 0.7, 0.5], [0.2, -0.3, 0.1], [0.9, 0.4, -1.3]], dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(t, z, cond):
    return GENERATOR[z]


def assert_law(tokens, law):
    """Frequencies agree with a law within five standard errors of each."""
    count = tokens.numel()
    frequency = torch.bincount(tokens.flatten(), minlength=len(law)).double() / count
    error = (law * (1 - law) / count).sqrt()
    assert bool(((frequency - law).abs() <= 5 * error + 1e-12).all()), (frequency, law)


@pytest.mark.parametrize("stepper", [MarkovEuler(), TauLeaping()])
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "reversed"])
def test_the_law_at_the_end_is_the_matrix_exponential(stepper, span):
    z0 = torch.arange(3)[:, None].expand(3, 6000).clone()
    solution = solve(MarkovProblem(chain, z0, *span, generator=generator()), stepper, ConstantSteps(100))
    # The bias of 100 steps (below 0.004) is within the standard errors allowed (0.03).
    for start, law in enumerate(torch.linalg.matrix_exp(GENERATOR)):
        assert_law(solution.final[start], law)
    assert solution.final.dtype == torch.int64
    assert solution.stats.nfe.tolist() == [100] * 3


def test_one_euler_step_has_the_probabilities_of_the_first_order_expansion():
    z0 = torch.zeros(50, 4000, dtype=torch.int64)
    final = solve(MarkovProblem(chain, z0, 0.0, 0.5, generator=generator()), MarkovEuler(), ConstantSteps(1)).final
    assert_law(final, torch.tensor([1 - 0.6, 0.35, 0.25], dtype=F64))


def test_one_leap_leaves_with_the_probability_of_at_least_one_jump():
    z0 = torch.zeros(50, 4000, dtype=torch.int64)
    final = solve(MarkovProblem(chain, z0, 0.0, 2.0, generator=generator()), TauLeaping(), ConstantSteps(1)).final
    leave = 1 - torch.exp(torch.tensor(-2.4, dtype=F64))
    assert_law(final, torch.stack([1 - leave, leave * 0.7 / 1.2, leave * 0.5 / 1.2]))


def unmask(t, z, law):
    """Reverse rates of the absorbing kernel with survival 1 - t: each masked position opens at rate 1/t."""
    open_ = law.expand(*z.shape, 3) / t
    return torch.where((z == 2)[..., None], open_, 0.0)


def test_the_absorbing_kernel_is_sampled_exactly_in_any_number_of_steps():
    law = torch.tensor([0.3, 0.7, 0.0], dtype=F64)
    for steps in (1, 3, 16):
        z0 = torch.full((40, 500), 2)
        problem = MarkovProblem(lambda t, z, c: unmask(t, z, law), z0, 1.0, 0.0, generator=generator(steps))
        solution = solve(problem, MarkovEuler(), ConstantSteps(steps), SaveAt(steps=True))
        assert_law(solution.final, law)
        assert solution.status.tolist() == [Status.SUCCESS] * 40
        if steps > 1:
            masked = (solution.ys[1] == 2).double().mean()
            assert float(masked) == pytest.approx(1 - 1 / steps, abs=0.02)


def test_euler_steps_with_probabilities_above_one_are_a_status():
    z0 = torch.tensor([[0, 0], [1, 1]])
    solution = solve(MarkovProblem(chain, z0, 0.0, 1.0, generator=generator()), MarkovEuler(), ConstantSteps(1))
    assert solution.status.tolist() == [Status.STEP_FAILED, Status.SUCCESS]
    with pytest.raises(SolverError, match="sample 0"):
        solution.raise_on_failure()


@pytest.mark.parametrize("bad", [float("nan"), -1.0])
def test_rates_that_are_no_rates_are_a_status(bad):
    def rate(t, z, cond):
        rates = GENERATOR[z].clone()
        rates[1, 0, (z[1, 0] + 1) % 3] = bad
        return rates

    z0 = torch.zeros(3, 4, dtype=torch.int64)
    for stepper in (MarkovEuler(), TauLeaping()):
        solution = solve(MarkovProblem(rate, z0, 0.0, 0.1, generator=generator()), stepper, ConstantSteps(2))
        assert solution.status.tolist() == [Status.SUCCESS, Status.STEP_FAILED, Status.SUCCESS]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-12, 0.5, 3.0]), min_size=1, max_size=6), st.integers(0, 2**31))
def test_symbols_of_weight_zero_are_never_drawn(weights, seed):
    if not any(weights):
        return
    drawn = draw_symbols(torch.tensor(weights, dtype=F64).expand(200, -1), generator(seed))
    assert all(weights[symbol] > 0 for symbol in drawn.tolist())


def test_symbols_are_drawn_in_proportion_to_their_weights():
    weights = torch.tensor([2.0, 0.0, 5.0, 1.0], dtype=F64)
    assert_law(draw_symbols(weights.expand(100_000, -1), generator()), weights / 8)


def test_tokens_must_be_int64_with_a_batch_axis():
    with pytest.raises(TypeError, match="z0"):
        MarkovProblem(chain, torch.zeros(2, 3), 0.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match="z0"):
        MarkovProblem(chain, torch.zeros(3, dtype=torch.int64), 0.0, 1.0, generator=generator())


def test_other_problems_are_refused():
    with pytest.raises(TypeError, match="MarkovProblem"):
        solve(ODEProblem(lambda t, y, c: y, torch.ones(1, 1), 0.0, 1.0), TauLeaping(), ConstantSteps(2))


def test_weights_that_are_not_numbers_still_give_a_symbol() -> None:
    weights = torch.tensor([[torch.nan, 1.0, 1.0], [1.0, torch.nan, 1.0], [1.0, 1.0, torch.nan]])
    drawn = draw_symbols(weights.repeat(50, 1), generator())
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < 3
