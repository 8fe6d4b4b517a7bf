"""The chain rule of a masked model: exact in every order with the exact denoiser, the bound on average over orders."""

from __future__ import annotations

import itertools

import pytest
import torch

from isocline.networks.transformer import TokenTransformer
from isocline.objectives.chain_likelihood import any_order_likelihood, chain_nats, left_to_right_likelihood
from isocline.objectives.masked import MaskedDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival

LENGTH = 3
ORDERS = [torch.tensor(order) for order in itertools.permutations(range(LENGTH))]


@pytest.fixture
def truth():
    return EnumeratedLaw.random(3, LENGTH, 2.0, torch.Generator().manual_seed(0))


@pytest.fixture
def wrong():
    """A network that is far from any law: what it says of a position depends on every visible token."""
    torch.manual_seed(0)
    network = TokenTransformer(4, LENGTH, 16, 1, 2, time_conditioned=False).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return network


@pytest.mark.parametrize("schedule", [LinearSurvival(), CosineSurvival()], ids=["linear", "cosine"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_order_is_exact_for_the_exact_denoiser(truth, order, schedule):
    kernel = AbsorbingKernel(4, schedule)
    found = chain_nats(EnumeratedDenoiser(truth, kernel), kernel, truth.sequences, order.expand(27, LENGTH))
    torch.testing.assert_close(found, truth.nats(truth.sequences), rtol=0, atol=1e-10)


def test_orders_differ_where_the_network_is_no_law(truth, wrong):
    kernel = AbsorbingKernel(4, LinearSurvival())
    forward = left_to_right_likelihood(wrong, kernel, truth.sequences)
    backward = chain_nats(wrong, kernel, truth.sequences, torch.tensor([2, 1, 0]).expand(27, LENGTH))
    assert forward.kind == "exact"
    assert (forward.nats - backward).abs().max() > 0.1


def test_a_chain_is_a_normalised_law_whatever_the_network(truth, wrong):
    kernel = AbsorbingKernel(4, LinearSurvival())
    for order in ORDERS:
        nats = chain_nats(wrong, kernel, truth.sequences, order.expand(27, LENGTH))
        assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-10)


def test_the_mean_over_all_orders_is_the_fixed_count_bound(truth, wrong):
    """Both sides by enumeration, for a network that is far from the truth."""
    kernel = AbsorbingKernel(4, LinearSurvival())
    objective, tokens = MaskedDiffusion(kernel), truth.sequences
    chains = torch.stack([chain_nats(wrong, kernel, tokens, order.expand(27, LENGTH)) for order in ORDERS]).mean(0)
    bound = torch.zeros(27, dtype=torch.float64)
    for count in range(1, LENGTH + 1):
        subsets = list(itertools.combinations(range(LENGTH), count))
        for subset in subsets:
            z = tokens.clone()
            z[:, subset] = kernel.mask
            cost = objective.cross_entropy(wrong, tokens, z, torch.zeros(()))
            bound += cost.detach() * (LENGTH / count) / (LENGTH * len(subsets))
    torch.testing.assert_close(chains, bound, rtol=0, atol=1e-10)


def test_random_orders_estimate_that_bound_and_repeat_with_their_generator(truth, wrong):
    kernel = AbsorbingKernel(4, LinearSurvival())
    tokens = truth.sequences.repeat(200, 1)
    found = any_order_likelihood(wrong, kernel, tokens, torch.Generator().manual_seed(1))
    again = any_order_likelihood(wrong, kernel, tokens, torch.Generator().manual_seed(1))
    assert found.kind == "bound"
    assert torch.equal(found.nats, again.nats)
    chains = torch.stack([chain_nats(wrong, kernel, truth.sequences, o.expand(27, LENGTH)) for o in ORDERS])
    draws = found.nats.reshape(200, 27)
    error = draws.mean(0) - chains.mean(0)
    assert (error.abs() < 5 * chains.std(0, correction=0) / 200**0.5 + 1e-12).all()
    assert draws.std(0).max() > 0.1


def test_the_network_is_shown_the_time_of_its_number_of_masks():
    seen = []

    def network(t, z, cond=None):
        seen.append((t.tolist(), (z == 4).sum(-1).tolist()))
        return torch.zeros(*z.shape, 5)

    kernel = AbsorbingKernel(5, LinearSurvival())
    left_to_right_likelihood(network, kernel, torch.zeros(2, 4, dtype=torch.int64))
    assert seen == [([k / 4] * 2, [k] * 2) for k in (4, 3, 2, 1)]
