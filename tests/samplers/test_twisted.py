"""Weighted particles draw from the conditional law given a prompt, where noise consists of real symbols."""

import pytest
import torch
from tests.samplers.enumerated_cases import generate, law

from isocline.processes.kernel import UniformKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.discrete import AncestralSampler
from isocline.samplers.twisted import TwistedSampler

UNIFORM = UniformKernel(4, LinearSurvival())
PROMPT = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])


def error(sampler, nfe, count):
    truth, solution = generate(sampler, UNIFORM, count, nfe, prompt=PROMPT)
    conditional = truth.probs * (truth.sequences[:, 1] == 2)
    return 0.5 * (truth.frequencies(solution.final) - conditional / conditional.sum()).abs().sum()


def test_particles_condition_on_the_prompt_where_clamping_does_not():
    clamped = error(AncestralSampler(), 16, 800)
    assert error(TwistedSampler(1), 16, 800) > 0.15
    assert error(TwistedSampler(8), 8 * 16, 800) < 0.6 * clamped


def test_the_prompt_is_kept_and_evaluations_of_all_particles_count():
    _, solution = generate(TwistedSampler(3), UNIFORM, 20, 10, prompt=PROMPT, save_steps=True)
    assert solution.ys.shape == (4, 20, 3)
    assert (solution.ys[:, :, 1] == 2).all()
    assert solution.final.max() <= 2
    assert solution.stats.nfe.unique().tolist() == [9]
    assert solution.status.shape == solution.stopped_at.shape == (20,)


def test_everything_given_is_returned():
    tokens = torch.tensor([1, 2, 0])
    _, solution = generate(TwistedSampler(2), UNIFORM, 5, 8, prompt=(tokens, torch.ones(3).bool()))
    assert (solution.final == tokens).all()


def test_without_a_prompt_it_is_ancestral_sampling():
    first, second = (generate(s, UNIFORM, 30, 5)[1].final for s in (TwistedSampler(), AncestralSampler()))
    assert torch.equal(first, second)


def test_the_generator_alone_decides_and_conditions_are_repeated():
    seen = []

    def network(t, z, cond=None):
        seen.append(cond)
        return torch.zeros(len(z), 3, 4)

    runs = [
        TwistedSampler(2)
        .sample(network, UNIFORM, (3, 3), 4, torch.Generator().manual_seed(1), PROMPT, cond=torch.arange(3))
        .final
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    assert seen[0].tolist() == [0, 0, 1, 1, 2, 2]


def test_budgets_below_one_step_are_refused():
    with pytest.raises(ValueError, match="particles = 4"):
        generate(TwistedSampler(4), UNIFORM, 1, 3, truth=law(), prompt=PROMPT)
    with pytest.raises(ValueError, match="particles = 0"):
        TwistedSampler(0)
