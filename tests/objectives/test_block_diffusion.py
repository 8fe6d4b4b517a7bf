"""Block diffusion is autoregressive at b = 1, masked diffusion at b = L, and tight for the exact predictor between."""

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.objectives.block_diffusion import BlockDiffusion
from isocline.objectives.chain_likelihood import left_to_right_likelihood
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.time_sampling import ClippedTimes
from isocline.processes.enumerated import EnumeratedLaw, EnumeratedNextToken
from isocline.processes.enumerated_blocks import EnumeratedBlocks
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival

KERNEL = AbsorbingKernel(4, LinearSurvival())


def law():
    return EnumeratedLaw.random(3, 4, 2.0, torch.Generator().manual_seed(0))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def standard_error(values):
    return values.std() / len(values) ** 0.5


def random_network(block_length, noisy_depth=None):
    torch.manual_seed(0)
    network = BlockTransformer(4, 4, 16, 2, 2, block_length, noisy_depth).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def test_blocks_of_one_token_are_autoregressive_exactly_and_without_noise():
    truth, objective, chain = law(), BlockDiffusion(KERNEL), AutoregressiveObjective()
    network, other = EnumeratedBlocks(truth, 1), EnumeratedNextToken(truth)
    found = objective.negative_log_likelihood(network, truth.sequences, stream())
    assert found.kind == "exact"
    torch.testing.assert_close(found.nats, chain.negative_log_likelihood(other, truth.sequences).nats)
    batch = Batch(truth.sample(50, stream()))
    expected = chain(other, batch, stream()).total
    for seed in (1, 2):
        torch.testing.assert_close(objective(network, batch, stream(seed)).total, expected)


def test_one_block_is_masked_diffusion_draw_by_draw():
    truth, network = law(), random_network(4)
    other = TokenTransformer(4, 4, 16, 2, 2, time_conditioned=False, relative=True).double()
    other.load_state_dict(network.state_dict())
    found = BlockDiffusion(KERNEL).negative_log_likelihood(network, truth.sequences, stream(), 8)
    expected = MaskedDiffusion(KERNEL).negative_log_likelihood(other, truth.sequences, stream(), 8)
    assert found.kind == expected.kind == "bound"
    torch.testing.assert_close(found.nats, expected.nats, rtol=0, atol=1e-10)
    chain = left_to_right_likelihood(other, KERNEL, truth.sequences)
    found = BlockDiffusion(KERNEL).left_to_right_likelihood(network, truth.sequences)
    torch.testing.assert_close(found.nats, chain.nats, rtol=0, atol=1e-10)


@pytest.mark.parametrize("block_length", [2, 4])
def test_the_bound_of_the_exact_predictor_is_the_entropy(block_length):
    truth = law()
    draws = stream(1)
    tokens = truth.sample(4000, draws)
    nats = BlockDiffusion(KERNEL).negative_log_likelihood(EnumeratedBlocks(truth, block_length), tokens, draws, 4).nats
    excess = nats - truth.nats(tokens)
    assert excess.mean().abs() < 4 * standard_error(excess)
    assert 4 * standard_error(excess) < 0.1


@pytest.mark.parametrize("block_length", [1, 2, 4])
def test_the_chain_of_the_exact_predictor_is_the_law(block_length):
    truth = law()
    found = BlockDiffusion(KERNEL).left_to_right_likelihood(EnumeratedBlocks(truth, block_length), truth.sequences)
    assert found.kind == "exact"
    torch.testing.assert_close(found.nats, truth.nats(truth.sequences))


def test_the_chain_in_one_pass_per_place_of_a_block_is_the_chain_token_by_token():
    network, truth = random_network(2), law()
    found = BlockDiffusion(KERNEL).left_to_right_likelihood(network, truth.sequences)
    torch.testing.assert_close(found.nats, left_to_right_likelihood(network, KERNEL, truth.sequences).nats)


def test_chain_probabilities_of_any_network_sum_to_one():
    network, truth = random_network(2), law()
    nats = BlockDiffusion(KERNEL).left_to_right_likelihood(network, truth.sequences).nats
    torch.testing.assert_close(torch.exp(-nats).sum(), torch.ones((), dtype=torch.float64))


def enumerated_bound(network, truth):
    """Σ over the masks of both blocks of two tokens, weighted as the bound says; nats per sequence."""
    objective, total = BlockDiffusion(KERNEL), torch.zeros(len(truth.sequences), dtype=torch.float64)
    masks = {1: [(True, False), (False, True)], 2: [(True, True)]}
    for count, patterns in masks.items():
        for pattern in patterns:
            where = torch.tensor(pattern * 2).expand(truth.sequences.shape)
            z = truth.sequences.masked_fill(where, 3)
            cost = objective._spread(network, truth.sequences, z, where, None).sum(-1)
            total += 0.5 * (2 / count) * cost.detach() / len(patterns)
    return total


def test_the_training_loss_is_the_bound_of_any_network():
    network, truth = random_network(2), law()
    expected = enumerated_bound(network, truth)
    draws = stream(3)
    batch = Batch(truth.sequences)
    with torch.no_grad():
        losses = torch.stack([BlockDiffusion(KERNEL)(network, batch, draws).total for _ in range(300)]) * 4
    assert (losses.mean() - expected.mean()).abs() < 4 * standard_error(losses)
    assert 4 * standard_error(losses) < 0.01 * expected.mean()
    rows = truth.sequences.repeat(40, 1)
    found = BlockDiffusion(KERNEL).negative_log_likelihood(network, rows, draws, 2).nats - expected.repeat(40)
    assert found.mean().abs() < 4 * standard_error(found)


class Watcher(torch.nn.Module):
    """Remembers the number of masks per block; predicts all symbols alike."""

    block_length = 4

    def __init__(self):
        super().__init__()
        self.counts = []

    def forward(self, t, z, cond=None, clean=None, where=None):
        self.counts.append((z.reshape(len(z), -1, 4) == 3).sum(-1))
        return torch.zeros(int(where.sum()), 4)


def test_a_batch_draws_every_number_of_masks_equally_often_at_places_dealt_at_random():
    network, batch = Watcher(), Batch(torch.zeros(32, 16, dtype=torch.int64))
    for seed in range(60):
        BlockDiffusion(KERNEL)(network, batch, stream(seed))
        assert torch.bincount(network.counts[-1].flatten(), minlength=5).tolist() == [0, 32, 32, 32, 32]
    counts = torch.stack(network.counts)
    assert (counts.double().mean(0) - 2.5).abs().max() < 5 * (1.25 / 60) ** 0.5
    alike = (counts[..., 1:] == counts[..., :-1]).double().mean()
    assert (alike - 0.25).abs() < 0.02  # neighbours know nothing of each other


def test_clipped_times_leave_out_extreme_numbers_of_masks():
    network, batch = Watcher(), Batch(torch.zeros(32, 16, dtype=torch.int64))
    BlockDiffusion(KERNEL, ClippedTimes(0.3, 0.7))(network, batch, stream())
    assert set(network.counts[-1].flatten().tolist()) == {2, 3}


def test_the_loss_of_the_context_is_the_chain_rule_of_the_clean_tokens_and_no_likelihood_uses_it():
    truth, network = law(), random_network(2)
    batch = Batch(truth.sequences)
    plain = BlockDiffusion(KERNEL)(network, batch, stream())
    loss = BlockDiffusion(KERNEL, context_weight=0.5)(network, batch, stream())
    following = network.predictions(truth.sequences, truth.sequences).following[..., :3].log_softmax(-1)
    expected = -following.gather(-1, truth.sequences[:, 1:3, None]).mean()
    torch.testing.assert_close(loss.total, plain.total + 0.5 * expected)
    torch.testing.assert_close(loss.terms["nats_per_following_token"], expected.detach())
    found, same = (
        BlockDiffusion(KERNEL, context_weight=weight).negative_log_likelihood(network, truth.sequences, stream(), 4)
        for weight in (0.0, 0.5)
    )
    assert torch.equal(found.nats, same.nats)


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(TypeError, match="UniformKernel"):
        BlockDiffusion(UniformKernel(4, LinearSurvival()))
    other = TokenTransformer(4, 4, 16, 1, 2)
    with pytest.raises(ValueError, match="TokenTransformer has no block_length"):
        BlockDiffusion(KERNEL)(other, Batch(torch.zeros(2, 4, dtype=torch.int64)), stream())
    with pytest.raises(ValueError, match="3 tokens a row are no multiple of block_length = 2"):
        BlockDiffusion(KERNEL)(random_network(2), Batch(torch.zeros(2, 3, dtype=torch.int64)), stream())
    with pytest.raises(ValueError, match="context_weight = -1"):
        BlockDiffusion(KERNEL, context_weight=-1)


def test_losses_and_likelihoods_are_given_the_class():
    torch.manual_seed(0)
    network = BlockTransformer(4, 4, 16, 2, 2, 2, classes=2).double()
    with torch.no_grad():
        network.label.weight.mul_(50)
    tokens, objective = law().sample(20, stream()), BlockDiffusion(KERNEL, context_weight=0.5)
    zero, one = (torch.full((20,), label) for label in (0, 1))
    losses = [objective(network, Batch(tokens, cond=cond), stream()) for cond in (zero, one)]
    for term in ("nats_per_mask", "nats_per_following_token"):
        assert (losses[0].terms[term] - losses[1].terms[term]).abs() > 1e-4
    for score in (
        lambda cond: objective.negative_log_likelihood(network, tokens, stream(), 4, cond),
        lambda cond: objective.left_to_right_likelihood(network, tokens, cond),
    ):
        assert (score(zero).nats - score(one).nats).abs().min() > 1e-6
