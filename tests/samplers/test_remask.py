"""Remasking keeps the marginals of masked diffusion, within the bound of its probability."""

import itertools

import pytest
import torch
from tests.samplers.enumerated_cases import distance, generate

from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import CosineSurvival
from isocline.samplers.discrete import AncestralSampler
from isocline.samplers.remask import RemaskSampler, RemaskStepper
from isocline.samplers.remasking import (
    CapRemasking,
    ConfidenceRemasking,
    LoopRemasking,
    RescaledRemasking,
    bound,
)
from isocline.solvers.problem import MarkovProblem

KERNEL = AbsorbingKernel(4, CosineSurvival())
STRATEGIES = [
    CapRemasking(0.3),
    RescaledRemasking(0.5),
    ConfidenceRemasking(RescaledRemasking(1.0)),
    LoopRemasking(CapRemasking(0.3)),
]
strategies = pytest.mark.parametrize("strategy", STRATEGIES, ids=["cap", "rescale", "confidence", "loop"])


@pytest.mark.parametrize("strategy", [CapRemasking(0.0), RescaledRemasking(0.0)], ids=["cap", "rescale"])
def test_without_remasking_it_is_ancestral_sampling(strategy):
    found, ancestral = (
        generate(sampler, KERNEL, 200, 7, save_steps=True)[1]
        for sampler in (RemaskSampler(strategy), AncestralSampler())
    )
    assert torch.equal(found.ys, ancestral.ys)
    assert torch.equal(found.stats.nfe, ancestral.stats.nfe)


@strategies
def test_the_probability_stays_within_its_bound(strategy):
    certainty = torch.tensor([[0.1, 0.9, torch.inf]]).double()
    grid = torch.linspace(1, 0, 21).double()
    for t, s in itertools.pairwise(grid):
        a_t, a_s = (strategy.survival(KERNEL.schedule, time) for time in (t, s))
        sigma = strategy.probability(t, a_t, a_s, certainty)
        assert (sigma >= 0).all()
        assert (sigma <= bound(a_t, a_s)).all()
        reveal = (a_s - (1 - sigma) * a_t) / (1 - a_t)
        assert (reveal >= -1e-12).all()
        assert (reveal <= 1 + 1e-12).all()


@pytest.mark.parametrize("strategy", STRATEGIES[:2], ids=["cap", "rescale"])
@pytest.mark.parametrize(("start", "end"), [(0.9, 0.6), (0.6, 0.5), (0.2, 0.0)])
def test_a_step_keeps_the_marginals_given_the_clean_tokens(strategy, start, end):
    t, s, count = torch.tensor(start).double(), torch.tensor(end).double(), 100_000
    clean = torch.tensor([[0, 1, 2]]).expand(count, -1)
    generator = torch.Generator().manual_seed(0)
    known = torch.nn.functional.one_hot(clean, 4).double()
    z = KERNEL.sample(clean, t, generator)
    problem = MarkovProblem(lambda time, state, cond: known, z, start, end, generator=generator)
    stepper = RemaskStepper(KERNEL, strategy)
    moved = stepper.step(problem, t, s, z, stepper.init(problem, t, z)).y1
    again = ((z != 3) & (moved == 3)).double().mean()
    expected = strategy.probability(t, *(KERNEL.schedule.a(time) for time in (t, s)), None) * KERNEL.schedule.a(t)
    assert abs(again - expected) < 0.005
    found = torch.nn.functional.one_hot(moved, 4).double().mean(0)
    torch.testing.assert_close(found, KERNEL.marginal(clean[:1], s)[0], atol=0.006, rtol=0)


@pytest.mark.parametrize("strategy", [CapRemasking(0.02), RescaledRemasking(0.3)], ids=["cap", "rescale"])
def test_many_steps_reproduce_the_law(strategy):
    truth, solution = generate(RemaskSampler(strategy), KERNEL, 5000, 80)
    found, noise = distance(truth, solution.final)
    assert found < 2 * noise + 0.01


def test_confidence_masks_the_least_certain_token_most_often_and_never_a_given_one():
    strategy = ConfidenceRemasking(CapRemasking(1.0))
    sigma = strategy.probability(
        torch.tensor(0.5), torch.tensor(0.1).double(), torch.tensor(0.2).double(),
        torch.tensor([[0.2, 0.9, torch.inf], [torch.inf] * 3]).double(),
    )  # fmt: skip
    assert sigma[0, 0] > sigma[0, 1] > 0
    torch.testing.assert_close(sigma[0].sum(), torch.tensor(1.0).double())
    assert sigma[0, 2] == 0
    assert (sigma[1] == 0).all()


def test_the_loop_rests_at_its_level():
    loop = LoopRemasking(CapRemasking(0.3), start=0.6, stop=0.2, level=0.8)
    t = torch.tensor([1.0, 0.6, 0.4, 0.2, 0.0]).double()
    expected = torch.tensor([0.0, 0.8, 0.8, 0.8, 1.0]).double()
    torch.testing.assert_close(loop.survival(KERNEL.schedule, t), expected)
    assert loop.survival(KERNEL.schedule, torch.linspace(1, 0, 50)).diff().min() >= -1e-12
    at = [loop.probability(time, expected[1], expected[1], t) for time in torch.tensor([0.9, 0.5, 0.1]).double()]
    assert [float(sigma) for sigma in at] == pytest.approx([0.0, 0.25, 0.0])


def test_more_steps_than_tokens_are_evaluated():
    _, solution = generate(RemaskSampler(RescaledRemasking(0.9)), KERNEL, 500, 40)
    assert solution.stats.nfe.double().mean() > 6
    assert solution.stats.nfe.max() <= 40


def test_shares_that_are_no_probabilities_are_refused():
    for build in (CapRemasking, RescaledRemasking):
        with pytest.raises(ValueError, match=r"share = 1\.5"):
            build(1.5)
    with pytest.raises(ValueError, match="stop < start"):
        LoopRemasking(CapRemasking(), start=0.1, stop=0.2)
