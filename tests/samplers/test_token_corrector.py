"""Correctors leave the law of noisy tokens as it is; between the steps of a sampler they undo its errors."""

import itertools

import pytest
import torch
from tests.samplers.enumerated_cases import generate, law
from tests.samplers.moving_noise import MovingNoiseKernel

from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.samplers.corrected_tokens import CorrectedSampler, TokenCorrection
from isocline.samplers.discrete import AncestralSampler, TauLeapingSampler
from isocline.samplers.token_corrector import DetailedBalanceCorrector, ForwardBackwardCorrector
from isocline.samplers.token_law import Sharpening, TokenLaw
from isocline.solvers.problem import MarkovProblem

ABSORBING, UNIFORM = AbsorbingKernel(4, CosineSurvival()), UniformKernel(4, LinearSurvival())
KERNELS = [ABSORBING, UNIFORM, MovingNoiseKernel(4), HybridKernel(4, 0.3)]
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=["absorbing", "uniform", "moving", "hybrid"])
CORRECTORS = [ForwardBackwardCorrector(), DetailedBalanceCorrector()]
correctors = pytest.mark.parametrize("corrector", CORRECTORS, ids=["forward-backward", "detailed-balance"])


def noisy_law(truth, kernel, t):
    """All states ``(V^L, L)`` at t and their exact probabilities."""
    states = torch.tensor(list(itertools.product(range(kernel.vocab_size), repeat=truth.length)))
    columns = kernel.transition(torch.zeros_like(t), t)
    likelihood = torch.stack([columns[truth.sequences[:, i]][:, states[:, i]] for i in range(truth.length)]).prod(0)
    return states, truth.probs @ likelihood


@kernels
@correctors
@pytest.mark.parametrize("time", [0.2, 0.7])
def test_the_law_of_noisy_tokens_is_stationary(kernel, corrector, time):
    truth, t = law(3, 2), torch.tensor(time).double()
    states, probs = noisy_law(truth, kernel, t)
    possible = probs > 0
    states, probs = states[possible], probs[possible]
    network = EnumeratedDenoiser(truth, kernel)
    clean = kernel.clean_log_probs(network(t, states), states).exp()
    rate = corrector.rate(kernel, t, states, clean).scatter(-1, states.unsqueeze(-1), 0.0)
    weights = kernel.vocab_size ** torch.arange(truth.length - 1, -1, -1)
    change = torch.zeros(kernel.vocab_size**truth.length, dtype=torch.float64)
    for i, y in itertools.product(range(truth.length), range(kernel.vocab_size)):
        target = states.clone()
        target[:, i] = y
        flow = probs * rate[:, i, y]
        change.index_add_(0, (target * weights).sum(-1), flow)
        change.index_add_(0, (states * weights).sum(-1), -flow)
    assert rate.min() >= 0
    assert rate.sum(-1).max() > 0.05
    torch.testing.assert_close(change, torch.zeros_like(change), atol=1e-12, rtol=0)


@kernels
@correctors
def test_rates_for_one_time_and_for_one_of_each_sample_agree(kernel, corrector):
    z = torch.tensor([[0, 1, 2], [2, 2, 1]])
    probs = torch.full((2, 3, 4), 1 / 3).double()
    probs[..., 3] = 0
    t = torch.tensor(0.4).double()
    torch.testing.assert_close(corrector.rate(kernel, t, z, probs), corrector.rate(kernel, t.expand(2), z, probs))


@pytest.mark.parametrize("kernel", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])
@correctors
def test_corrections_lead_from_the_product_of_marginals_to_the_joint_law(kernel, corrector):
    truth, t, count = law(3, 2), torch.tensor(0.3).double(), 10_000
    states, probs = noisy_law(truth, kernel, t)
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([kernel.sample(truth.sample(count, generator), t, generator)[:, i] for i in range(2)], dim=-1)
    network = EnumeratedDenoiser(truth, kernel)
    problem = MarkovProblem(TokenLaw(network, kernel, Sharpening()), z, 1.0, 0.0, generator=generator)
    weights = kernel.vocab_size ** torch.arange(1, -1, -1)

    def error(tokens):
        found = torch.bincount((tokens * weights).sum(-1), minlength=len(states)).double() / count
        return 0.5 * (found - probs).abs().sum()

    correction = TokenCorrection(kernel, corrector, strength=1.0)
    before = error(z)
    for _ in range(30):
        z = correction.step(problem, t + 0.1, t, z, None).y1
    assert before > 0.05
    assert error(z) < 0.4 * before


def test_steps_and_corrections_fit_the_budget():
    sampler = CorrectedSampler(AncestralSampler(), ForwardBackwardCorrector(), corrections=2)
    for nfe in (1, 2, 3, 9, 10):
        _, solution = generate(sampler, UNIFORM, 20, nfe)
        steps = (nfe + 2) // 3
        assert solution.stats.accepted.unique().tolist() == [steps]
        assert solution.stats.nfe.max() == steps + 2 * (steps - 1) <= nfe


def test_the_corrector_sees_the_prompt():
    seen = []

    def network(t, z, cond=None):
        seen.append(z[:, 1])
        return torch.zeros(len(z), 3, 4)

    prompt = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])
    sampler = CorrectedSampler(TauLeapingSampler(), ForwardBackwardCorrector(), corrections=3)
    solution = sampler.sample(network, UNIFORM, (50, 3), 21, torch.Generator(), prompt=prompt)
    assert (torch.cat(seen) == 2).all()
    assert (solution.final[:, 1] == 2).all()


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="corrections = -1"):
        CorrectedSampler(AncestralSampler(), ForwardBackwardCorrector(), corrections=-1)
    with pytest.raises(ValueError, match="strength = 0"):
        CorrectedSampler(AncestralSampler(), ForwardBackwardCorrector(), strength=0.0)
