"""End terms: without them the integral over time is no bound where survival does not reach 0 or time is clipped."""

import pytest
import torch
from tests.objectives.enumerated_bound import integral, pairs, small_law

from isocline.objectives.d3pm import DiscreteTimeDiffusion
from isocline.objectives.discrete_flow import DiscreteFlowMatching
from isocline.objectives.end_terms import prior_divergence, reconstruction
from isocline.objectives.gidd import InterpolatingDiffusion
from isocline.objectives.reverse_rate_bound import reverse_rates
from isocline.objectives.score_entropy import ScoreEntropy
from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import AbstractSurvival, LinearSurvival


class Unfinished(AbstractSurvival):
    """a from 1 to 0.2: tokens may survive to t = 1."""

    def a(self, t):
        return 1.0 - 0.8 * t.double()

    def da(self, t):
        return torch.full_like(t, -0.8, dtype=torch.float64)

    def inverse(self, a):
        return (1.0 - a) / 0.8


class Late(AbstractSurvival):
    """a from 0.8 to 0: some tokens are noise at t = 0 already."""

    def a(self, t):
        return 0.8 * (1.0 - t.double())

    def da(self, t):
        return torch.full_like(t, -0.8, dtype=torch.float64)


@pytest.mark.parametrize(
    "kernel",
    [AbsorbingKernel(4, LinearSurvival()), UniformKernel(4, LinearSurvival()), HybridKernel(4, 0.2)],
    ids=["absorbing", "uniform", "hybrid"],
)
def test_both_terms_vanish_where_both_ends_are_reached(kernel):
    tokens = torch.tensor([[0, 1, 2]])
    assert prior_divergence(kernel, tokens).item() == 0
    assert reconstruction(lambda *_: pytest.fail("evaluated"), kernel, tokens, 0.0, torch.Generator()).item() == 0


def test_a_token_that_may_survive_costs_the_divergence_from_the_prior():
    kernel = UniformKernel(4, Unfinished())
    law = torch.tensor([0.2 + 0.8 / 3, 0.8 / 3, 0.8 / 3], dtype=torch.float64)
    expected = 2 * (law * (3 * law).log()).sum()
    torch.testing.assert_close(prior_divergence(kernel, torch.tensor([[0, 2]])), expected.unsqueeze(0))
    assert prior_divergence(AbsorbingKernel(4, Unfinished()), torch.tensor([[0, 2]])).isinf()


def enumerated_integral(kernel, truth, start=0.0):
    network, objective = EnumeratedDenoiser(truth, kernel), InterpolatingDiffusion(kernel)

    def at_time(t):
        here = pairs(truth, kernel, t)
        time = t.expand(len(here.x))
        rates = reverse_rates(kernel, network(time, here.z), here.x, here.z, time)
        return (here.weight * objective.divergence(rates).sum(-1)).sum()

    return integral(at_time, start)


def test_where_tokens_survive_the_integral_alone_is_below_the_entropy_and_the_sum_above():
    truth, kernel = small_law(), UniformKernel(4, Unfinished())
    alone = enumerated_integral(kernel, truth)
    assert alone < truth.entropy - 0.005
    assert alone + (truth.probs * prior_divergence(kernel, truth.sequences)).sum() > truth.entropy


@pytest.mark.parametrize("kind", [ScoreEntropy, DiscreteTimeDiffusion, DiscreteFlowMatching])
def test_every_likelihood_pays_for_tokens_that_survive_where_the_prior_has_none(kind):
    kernel = AbsorbingKernel(4, Unfinished())
    network, tokens = EnumeratedDenoiser(small_law(), kernel), small_law().sequences
    found = kind(kernel).negative_log_likelihood(network, tokens, torch.Generator().manual_seed(0), strata=2)
    assert found.nats.isposinf().all()


def test_where_time_is_clipped_the_integral_alone_is_below_the_entropy_and_the_estimate_above():
    truth, kernel = small_law(), UniformKernel(4, LinearSurvival())
    assert enumerated_integral(kernel, truth, 0.05) < truth.entropy - 0.1
    tokens = truth.sample(20_000, torch.Generator().manual_seed(0))
    objective, stream = InterpolatingDiffusion(kernel, start=0.05), torch.Generator().manual_seed(1)
    found = objective.negative_log_likelihood(EnumeratedDenoiser(truth, kernel), tokens, stream, strata=4)
    whole = found.nats - truth.nats(tokens)
    error = whole.std() / len(whole) ** 0.5
    assert error < 0.01
    assert -4 * error < whole.mean() < 0.05


def test_the_reconstruction_is_the_cross_entropy_of_the_clean_law():
    truth, kernel = small_law(), UniformKernel(4, LinearSurvival())
    network = EnumeratedDenoiser(truth, kernel)
    found = reconstruction(network, kernel, truth.sequences, 0.3, torch.Generator().manual_seed(0))
    z = kernel.sample(truth.sequences, torch.full((9,), 0.3).double(), torch.Generator().manual_seed(0))
    expected = -network(torch.tensor(0.3), z).gather(-1, truth.sequences.unsqueeze(-1)).sum((-1, -2))
    torch.testing.assert_close(found, expected)


def enumerated_reconstruction(kernel, truth, start):
    network, t = EnumeratedDenoiser(truth, kernel), torch.tensor(start, dtype=torch.float64)
    here = pairs(truth, kernel, t)
    log_probs = kernel.clean_log_probs(network(t, here.z), here.z)
    return -(here.weight * log_probs.gather(-1, here.x.unsqueeze(-1)).sum((-1, -2))).sum()


late = pytest.mark.parametrize(
    "kernel", [AbsorbingKernel(4, Late()), UniformKernel(4, Late())], ids=["absorbing", "uniform"]
)


@late
def test_where_noise_is_there_at_the_start_the_integral_alone_is_below_the_entropy_and_the_sum_above(kernel):
    truth = small_law()
    alone = enumerated_integral(kernel, truth)
    assert alone < truth.entropy - 0.1
    whole = alone + enumerated_reconstruction(kernel, truth, 0.0)
    assert whole > truth.entropy + 1e-3


@late
@pytest.mark.parametrize("kind", [ScoreEntropy, InterpolatingDiffusion, DiscreteFlowMatching])
def test_every_likelihood_pays_for_noise_that_is_there_at_the_start(kernel, kind):
    truth, stream = small_law(), torch.Generator().manual_seed(0)
    tokens, network = truth.sample(12_000, stream), EnumeratedDenoiser(truth, kernel)
    objective = kind(kernel, decision_time=0.0) if kind is DiscreteFlowMatching else kind(kernel)
    found = objective.negative_log_likelihood(network, tokens, stream, strata=4)
    excess = found.nats - truth.nats(tokens)
    error = excess.std() / len(excess) ** 0.5
    assert error < 0.02
    assert excess.mean() > -4 * error
    if found.kind == "bound":
        expected = enumerated_integral(kernel, truth) + enumerated_reconstruction(kernel, truth, 0.0) - truth.entropy
        assert (excess.mean() - expected).abs() < 4 * error


@late
def test_noise_at_the_start_is_in_every_law_of_the_kernel(kernel):
    """The chain from t = 0 starts from noisy tokens: q_t is a(t) δ + n_t all the same, and Bayes' rule holds."""
    x, t, s = torch.tensor([[0, 2]]), torch.tensor(0.5).double(), torch.tensor(0.3).double()
    onehot = torch.nn.functional.one_hot(x, 4).double()
    law = 0.4 * onehot + 0.6 * kernel.stationary()
    torch.testing.assert_close(kernel.marginal(x, t), law)
    z = kernel.sample(x.expand(40_000, -1), t, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.nn.functional.one_hot(z, 4).double().mean(0)[None], law, rtol=0, atol=0.01)
    forward = kernel.marginal(x, s) @ kernel.transition(s, t)
    torch.testing.assert_close(forward, law)
    for symbol in range(4):
        here = torch.full_like(x, symbol)
        if bool((law.gather(-1, here.unsqueeze(-1)) > 0).all()):
            expected = kernel.marginal(x, s) * kernel.transition(s, t)[:, symbol]
            found = kernel.posterior(here, s, t, onehot)
            torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))
