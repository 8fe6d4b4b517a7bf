"""Discrete flow matching: its loss, and its likelihood bound by enumeration of every noisy state."""

import itertools

import pytest
import torch
from tests.objectives.enumerated_bound import integral, pairs

from isocline.datasets.batch import Batch
from isocline.objectives.discrete_flow import DiscreteFlowMatching, generalised_kl
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.sequence_likelihood import FLOW_BOUND
from isocline.objectives.udlm import UniformDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival

ABSORBING, UNIFORM = AbsorbingKernel(4, LinearSurvival()), UniformKernel(4, LinearSurvival())
HYBRID = HybridKernel(4, 0.2, gamma=2.0)


def law():
    return EnumeratedLaw.random(3, 2, 2.0, torch.Generator().manual_seed(0))


def expectation(kernel, truth, t, value):
    """E over z ~ q_t(·|x) of value(x, z, log p(x|z)) for every sequence, by enumeration; ``(N,)``."""
    symbols = range(4) if kernel is ABSORBING else range(3)
    states = torch.tensor(list(itertools.product(symbols, repeat=truth.length)))
    x = truth.sequences.repeat_interleave(len(states), 0)
    z = states.repeat(len(truth.sequences), 1)
    weight = kernel.marginal(x, t).gather(-1, z.unsqueeze(-1)).squeeze(-1).prod(-1)
    keep = weight > 0
    log_probs = kernel.clean_log_probs(EnumeratedDenoiser(truth, kernel)(t, z[keep]), z[keep])
    total = torch.zeros_like(weight)
    total[keep] = weight[keep] * value(log_probs, x[keep], z[keep])
    return total.view(len(truth.sequences), -1).sum(-1)


def enumerated_bound(kernel, truth, start=0.0, cells=200):
    """The generalised-KL integral by midpoint quadrature, plus the decision at ``start``."""
    edges = torch.linspace(start, 1, cells + 1, dtype=torch.float64)
    bound = torch.zeros(len(truth.sequences), dtype=torch.float64)
    for left, right in itertools.pairwise(edges):
        t = (left + right) / 2
        bound += kernel.schedule.hazard(t) * (right - left) * expectation(kernel, truth, t, generalised_kl)
    if start:
        bound += expectation(
            kernel, truth, edges[0], lambda lp, x, z: -lp.gather(-1, x.unsqueeze(-1)).squeeze(-1).sum(-1)
        )
    return bound


def test_absorbing_bound_with_the_exact_denoiser_is_the_entropy():
    truth = law()
    bound = (truth.probs * enumerated_bound(ABSORBING, truth)).sum()
    torch.testing.assert_close(bound, truth.entropy, rtol=1e-4, atol=0)


def test_uniform_bound_with_the_exact_denoiser_lies_above_the_entropy_and_is_loose():
    truth = law()
    bound = (truth.probs * enumerated_bound(UNIFORM, truth)).sum()
    assert bound > truth.entropy + 0.05
    assert bound < truth.entropy + 3


def test_a_later_decision_time_gives_another_bound_above_the_entropy():
    truth = law()
    for kernel in (ABSORBING, UNIFORM):
        assert (truth.probs * enumerated_bound(kernel, truth, start=0.1)).sum() > truth.entropy


@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize("kernel", [ABSORBING, UNIFORM], ids=["absorbing", "uniform"])
def test_the_estimate_is_unbiased(kernel, start):
    truth = law()
    stream = torch.Generator().manual_seed(0)
    tokens = truth.sequences.repeat(800, 1)
    objective = DiscreteFlowMatching(kernel, decision_time=start)
    found = objective.negative_log_likelihood(EnumeratedDenoiser(truth, kernel), tokens, stream, strata=4)
    assert found.kind == (FLOW_BOUND if kernel is UNIFORM else "bound")
    error = (found.nats - enumerated_bound(kernel, truth, start).repeat(800)).view(800, -1).mean(1)
    assert error.mean().abs() < 4 * error.std() / 800**0.5
    assert error.std() / 800**0.5 < 0.05


def test_the_bound_of_moving_noise_follows_the_reversed_rates_and_is_the_entropy():
    truth = law()
    objective, network = DiscreteFlowMatching(HYBRID), EnumeratedDenoiser(truth, HYBRID)

    def at_time(t):
        here = pairs(truth, HYBRID, t)
        time = t.expand(len(here.x))
        return (here.weight * objective.rate_divergence(network(time, here.z), here.x, here.z, time)).sum()

    torch.testing.assert_close(integral(at_time), truth.entropy, rtol=1e-6, atol=0)


def test_the_uniform_bound_is_looser_than_udlms_of_the_same_network():
    truth, stream = law(), torch.Generator().manual_seed(0)
    tokens, network = truth.sample(4000, stream), EnumeratedDenoiser(truth, UNIFORM)
    loose = DiscreteFlowMatching(UNIFORM, decision_time=0.0).negative_log_likelihood(network, tokens, stream, strata=8)
    tight = UniformDiffusion(UNIFORM).negative_log_likelihood(network, tokens, stream, strata=8)
    assert loose.nats.mean() > tight.nats.mean() + 0.05


def test_the_estimate_for_moving_noise_is_a_bound():
    truth, stream = law(), torch.Generator().manual_seed(0)
    tokens = truth.sample(8000, stream)
    objective = DiscreteFlowMatching(HYBRID, decision_time=0.05)
    found = objective.negative_log_likelihood(EnumeratedDenoiser(truth, HYBRID), tokens, stream, strata=4)
    excess = found.nats - truth.nats(tokens)
    error = excess.std() / len(excess) ** 0.5
    assert found.kind == "bound"
    assert error < 0.02
    assert -4 * error < excess.mean() < 0.2


def test_absorbing_generalised_kl_is_the_masked_cross_entropy_point_by_point():
    truth = law()
    network = EnumeratedDenoiser(truth, ABSORBING)
    t = torch.full((9,), 0.5, dtype=torch.float64)
    z = ABSORBING.sample(truth.sequences, t, torch.Generator().manual_seed(0))
    here = generalised_kl(ABSORBING.clean_log_probs(network(t, z), z), truth.sequences, z)
    torch.testing.assert_close(here, MaskedDiffusion(ABSORBING).cross_entropy(network, truth.sequences, z, t))


def test_the_generalised_kl_vanishes_where_the_model_knows():
    x = torch.tensor([[0, 2]])
    certain = torch.nn.functional.one_hot(x, 4).double().log()
    for z in (x, torch.tensor([[1, 1]]), torch.tensor([[0, 1]])):
        assert generalised_kl(certain, x, z).item() == 0


def test_the_loss_is_the_unweighted_cross_entropy_per_token():
    uniform_guess = lambda t, z, cond=None: torch.zeros(*z.shape, 4)  # noqa: E731
    loss = DiscreteFlowMatching(UNIFORM)(uniform_guess, Batch(law().sequences), torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.total, torch.tensor(3.0).log())


def test_an_impossible_decision_time_is_refused():
    with pytest.raises(ValueError, match="decision_time = 1"):
        DiscreteFlowMatching(UNIFORM, decision_time=1.0)
