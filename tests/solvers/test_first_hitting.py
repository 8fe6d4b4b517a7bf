"""First-hitting generation against enumerated laws and the laws of its times."""

import numpy as np
import pytest
import scipy.stats
import torch

from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.solvers import ConstantSteps, MarkovProblem, SaveAt, Status, solve
from isocline.solvers.first_hitting import FirstHitting

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_law(states, law):
    """Chi-squared test of frequencies: a wrong law of this many samples has a p-value far below the bound."""
    law = np.asarray(law)
    count = torch.bincount(states.flatten(), minlength=len(law)).numpy()
    assert count[law < 1e-14].sum() == 0
    possible = law >= 1e-14
    if possible.sum() == 1:
        return
    expected = law[possible] / law[possible].sum() * count.sum()
    assert scipy.stats.chisquare(count[possible], expected).pvalue > 1e-3, (count / count.sum(), law)


@pytest.fixture(scope="module")
def law():
    return EnumeratedLaw.random(3, 3, 1.0, generator(5))


def denoiser(law, schedule):
    model = EnumeratedDenoiser(law, AbsorbingKernel(law.vocab_size, schedule))
    return lambda t, z, cond: model(t, z).exp()


@pytest.mark.parametrize("schedule", [LinearSurvival(), CosineSurvival()])
@pytest.mark.parametrize("steps", [1, 4])
def test_first_hitting_reproduces_the_law_of_an_exact_denoiser(law, schedule, steps):
    z0 = torch.full((20_000, 3), law.symbols)
    problem = MarkovProblem(denoiser(law, schedule), z0, 1.0, 0.0, generator=generator(steps), is_separable=True)
    solution = solve(problem, FirstHitting(law.symbols, schedule), ConstantSteps(steps))
    assert_law(law.index(solution.final), law.probs)
    assert solution.stats.nfe.tolist() == [3] * 20_000


def test_first_hitting_asks_once_a_revealed_token_and_never_for_what_was_visible(law):
    schedule, mask = LinearSurvival(), law.symbols
    asked = []

    def predict(t, z, cond):
        asked.append(len(z))
        return denoiser(law, schedule)(t, z, cond)

    z0 = torch.tensor([[mask, mask, mask], [1, mask, mask], [1, 2, mask], [1, 2, 0]]).repeat(3000, 1)
    problem = MarkovProblem(predict, z0, 1.0, 0.0, generator=generator(1), is_separable=True)
    solution = solve(problem, FirstHitting(mask, schedule), ConstantSteps(6), SaveAt(steps=True))
    assert torch.equal(solution.stats.nfe, (z0 == mask).sum(1))
    assert sum(asked) == int(solution.stats.nfe.sum())
    visible = z0 != mask
    assert torch.equal(solution.final[visible], z0[visible])
    assert not bool((solution.final == mask).any())
    # What was visible is conditioned on.
    after_one = law.probs.reshape(3, 3, 3)[1].flatten()
    found = solution.final[1::4]
    assert_law(found[:, 1] * 3 + found[:, 2], after_one / after_one.sum())
    # A token that is revealed stays as it is, and the grid's states show no more masks than the states before.
    for before, after in zip(solution.ys[:-1], solution.ys[1:], strict=True):
        assert torch.equal(after[before != mask], before[before != mask])


@pytest.mark.parametrize("schedule", [LinearSurvival(), CosineSurvival()])
def test_first_hitting_times_are_the_largest_of_independent_reveal_times(schedule):
    asked = []

    def predict(t, z, cond):
        asked.append(t.clone())
        return torch.ones(*z.shape, 3, dtype=F64)

    z0 = torch.full((4000, 5), 2)
    solution = solve(
        MarkovProblem(predict, z0, 1.0, 0.0, generator=generator(2)),
        FirstHitting(2, schedule),
        ConstantSteps(1),
        SaveAt(ts=[0.35]),
    )
    # Each position is still masked at t with probability 1 - a(t), so the first of five reveals is at t with (1 - a)^5.
    assert scipy.stats.kstest(1 - schedule.a(asked[0]), lambda share: share**5).pvalue > 1e-3
    assert scipy.stats.kstest(1 - schedule.a(asked[4]), lambda share: 1 - (1 - share) ** 5).pvalue > 1e-3
    # Until then positions have been revealed or not independently: no position goes first.
    pattern = ((solution.ys[0] == 2) * 2 ** torch.arange(5)).sum(1)
    noise = float(1 - schedule.a(torch.tensor(0.35)))
    masks = np.array([number.bit_count() for number in range(32)])
    assert_law(pattern, noise**masks * (1 - noise) ** (5 - masks))


def test_first_hitting_asks_the_denoiser_at_the_time_of_the_reveal():
    def predict(t, z, cond):
        share = t.square().reshape(-1, 1, 1).expand(-1, 1, 1)
        return torch.cat([share, 1 - share, 7 * torch.ones_like(share)], -1)

    problem = MarkovProblem(predict, torch.full((20_000, 1), 2), 1.0, 0.0, generator=generator(3))
    final = solve(problem, FirstHitting(2, LinearSurvival()), ConstantSteps(1)).final
    # The time is uniform: E[t²] = 1/3.
    assert_law(final, [1 / 3, 2 / 3])


def test_a_span_that_ends_among_noise_leaves_masks():
    problem = MarkovProblem(
        lambda t, z, c: torch.ones(*z.shape, 2, dtype=F64), torch.ones(9000, 1).long(), 0.8, 0.2, generator=generator(4)
    )
    solution = solve(problem, FirstHitting(1, LinearSurvival()), ConstantSteps(3))
    assert_law(solution.final, [0.75, 0.25])
    assert torch.equal(solution.stats.nfe, 1 - solution.final[:, 0])


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 0.0])
def test_laws_that_are_no_laws_stop_their_sample_only(bad):
    def predict(t, z, cond):
        law = torch.ones(*z.shape, 3, dtype=F64)
        law[cond, :, :2] = bad
        return law

    cond = torch.tensor([False, True, False])
    z0 = torch.full((3, 2), 2)
    problem = MarkovProblem(predict, z0, 1.0, 0.0, cond, generator=generator(), is_separable=True)
    solution = solve(problem, FirstHitting(2, LinearSurvival()), ConstantSteps(1))
    assert solution.status.tolist() == [Status.SUCCESS, Status.STEP_FAILED, Status.SUCCESS]
    assert solution.final[1].tolist() == [2, 2]
