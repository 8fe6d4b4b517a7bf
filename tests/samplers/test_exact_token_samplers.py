"""Samplers of tokens without error of discretised time reproduce the law of an exact denoiser."""

import pytest
import torch
from tests.samplers.enumerated_cases import chi_squared_p_value, generate, law
from tests.samplers.moving_noise import MovingNoiseKernel

from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.gillespie import GillespieSampler

ABSORBING = AbsorbingKernel(4, CosineSurvival())
UNIFORM = UniformKernel(4, LinearSurvival())
MOVING = MovingNoiseKernel(4)


@pytest.mark.parametrize(
    ("sampler", "kernel", "nfe"),
    [
        (FirstHittingSampler(), ABSORBING, 3),
        (GillespieSampler(), ABSORBING, 4),
        (GillespieSampler(0.05), UNIFORM, 40),
        (GillespieSampler(0.05), UniformKernel(4, CosineSurvival()), 40),
        (GillespieSampler(0.05), MOVING, 40),
        (GillespieSampler(0.05), HybridKernel(4, 0.3), 40),
    ],
    ids=["first-hitting", "absorbing", "uniform", "uniform-cosine", "moving", "hybrid"],
)
def test_exact_samplers_reproduce_the_law(sampler, kernel, nfe):
    truth, solution = generate(sampler, kernel, 8000, nfe)
    assert solution.stats.nfe.max() < nfe or kernel is ABSORBING
    assert chi_squared_p_value(truth.probs, truth.frequencies(solution.final), 8000) > 0.01


@pytest.mark.parametrize(
    ("sampler", "kernel", "nfe"),
    [
        (FirstHittingSampler(), ABSORBING, 1),
        (GillespieSampler(), UNIFORM, 3),
        (GillespieSampler(rest=3.0), UNIFORM, 40),
    ],
    ids=["grouped", "cut-short", "drawn-at-once"],
)
def test_the_test_of_the_law_sees_positions_drawn_together(sampler, kernel, nfe):
    truth, solution = generate(sampler, kernel, 8000, nfe)
    assert chi_squared_p_value(truth.probs, truth.frequencies(solution.final), 8000) < 1e-6


def test_infilling_by_first_hitting_draws_from_the_conditional_law():
    tokens, fixed = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])
    truth, solution = generate(FirstHittingSampler(), ABSORBING, 20_000, 2, prompt=(tokens, fixed))
    conditional = truth.probs * (truth.sequences[:, 1] == 2)
    kept = conditional > 0
    found = truth.frequencies(solution.final)
    assert found[~kept].sum() == 0
    assert chi_squared_p_value(conditional[kept] / conditional.sum(), found[kept], 20_000) > 0.01


def test_first_hitting_evaluates_once_per_revealed_token_whatever_the_budget():
    tokens = torch.zeros(3, 3, dtype=torch.int64)
    fixed = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    calls = []
    truth = law()

    def network(t, z, cond=None):
        calls.append(len(z))
        return torch.zeros(len(z), truth.length, 4)

    solution = FirstHittingSampler().sample(network, ABSORBING, (3, 3), 50, torch.Generator(), prompt=(tokens, fixed))
    assert solution.stats.nfe.tolist() == [0, 2, 3]
    assert sum(calls) == 5


def test_first_hitting_reveals_groups_as_even_as_can_be():
    _, solution = generate(FirstHittingSampler(), ABSORBING, 50, 2, truth=law(3, 5), save_steps=True)
    masked = (solution.ys == ABSORBING.mask).sum(-1)
    assert masked[:, 0].tolist() == [5, 3, 0]
    assert (masked == masked[:, :1]).all()
    assert solution.stats.nfe.unique().tolist() == [2]


def test_hitting_times_are_those_of_the_first_of_n_reveals():
    times = []

    def network(t, z, cond=None):
        times.append(t)
        return torch.zeros(len(z), z.shape[1], 4)

    FirstHittingSampler().sample(network, ABSORBING, (20_000, 3), 3, torch.Generator().manual_seed(0))
    noises = torch.stack([1 - ABSORBING.schedule.a(t) for t in times])
    # 1 − a at the k-th reveal is the k-th largest of three uniform numbers.
    torch.testing.assert_close(noises.mean(1), torch.tensor([0.75, 0.5, 0.25]).double(), atol=0.006, rtol=0)
    torch.testing.assert_close(noises.var(1), torch.tensor([3 / 80, 4 / 80, 3 / 80]).double(), atol=0.002, rtol=0)


def test_uniformisation_needs_few_more_evaluations_than_the_logarithm_of_the_precision():
    _, solution = generate(GillespieSampler(rest=0.01), UNIFORM, 2000, 200)
    # Candidates come until 3 (1 − a) ≤ 0.01: Poisson of mean 3 ln 300, and the draw of the rest.
    expected = 3 * torch.log(torch.tensor(300.0)) + 2
    assert abs(solution.stats.nfe.double().mean() - expected) < 0.4
    assert solution.stats.nfe.max() < 200
