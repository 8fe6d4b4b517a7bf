"""Blocks from left to right: the exact law, with and without a cache, under prompts and budgets."""

import pytest
import torch
from scipy.stats import chisquare

from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.block_diffusion import BlockDiffusion
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_blocks import EnumeratedBlocks
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.block import BlockSampler, split_budget
from isocline.samplers.discrete import AncestralSampler, ConfidenceSampler
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.order import LeastEntropy, LeftToRight

KERNEL = AbsorbingKernel(4, LinearSurvival())
WORDS = AbsorbingKernel(11, LinearSurvival())
INNER = [FirstHittingSampler(), AncestralSampler(), ConfidenceSampler(LeastEntropy()), ConfidenceSampler(LeftToRight())]
inner = pytest.mark.parametrize("inner", INNER, ids=["first-hitting", "ancestral", "entropy", "left-to-right"])


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def law():
    return EnumeratedLaw.random(3, 4, 2.0, stream())


def transformer(block_length=2, length=8, vocab_size=11):
    torch.manual_seed(0)
    network = BlockTransformer(vocab_size, length, 16, 2, 2, block_length).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


class Uncached(torch.nn.Module):
    """The same network without its cache; counts the sequences it is asked about."""

    def __init__(self, network):
        super().__init__()
        self.network, self.block_length, self.asked = network, network.block_length, 0

    def forward(self, t, z, cond=None):
        self.asked += len(z)
        return self.network(t, z, cond)


def p_value(probs, truth, tokens):
    counts = truth.frequencies(tokens) * len(tokens)
    expected = probs * len(tokens)
    rare = expected < 5
    pooled = [torch.cat([part[~rare], part[rare].sum()[None]]) for part in (counts, expected)]
    keep = pooled[1] > 0
    return chisquare(pooled[0][keep], pooled[1][keep]).pvalue


@pytest.mark.parametrize("block_length", [1, 2, 4])
def test_one_evaluation_per_token_reproduces_the_law(block_length):
    truth = law()
    solution = BlockSampler().sample(EnumeratedBlocks(truth, block_length), KERNEL, (6000, 4), 4, stream(1))
    assert solution.status.eq(0).all()
    assert p_value(truth.probs, truth, solution.final) > 1e-3


def test_from_left_to_right_within_blocks_the_law_is_that_of_the_chain_likelihood():
    truth, network = law(), transformer(2, 4, 4)
    probs = torch.exp(-BlockDiffusion(KERNEL).left_to_right_likelihood(network, truth.sequences).nats)
    sampler = BlockSampler(ConfidenceSampler(LeftToRight()))
    solution = sampler.sample(network, KERNEL, (6000, 4), 4, stream(2))
    assert p_value(probs, truth, solution.final) > 1e-3


@inner
@pytest.mark.parametrize("prompted", [False, True])
def test_the_cache_changes_nothing(inner, prompted):
    """Also where prompts differ: whole blocks given in some sequences or in all, and single tokens."""
    network = transformer()
    prompt = None
    if prompted:
        fixed = torch.zeros(5, 8, dtype=torch.bool)
        fixed[:, 2:4] = fixed[0, :4] = fixed[1, 4:6] = fixed[2, 5] = fixed[3, :7] = True
        prompt = (torch.arange(8).expand(5, 8), fixed)
    found, expected = (
        BlockSampler(inner).sample(each, WORDS, (5, 8), 6, stream(3), prompt, save_steps=True)
        for each in (network, Uncached(network))
    )
    assert torch.equal(found.ys, expected.ys)
    assert torch.equal(found.stats.nfe, expected.stats.nfe)


@inner
@pytest.mark.parametrize("nfe", [4, 5, 7, 8])
def test_no_sequence_is_evaluated_more_often_than_the_budget_or_its_open_positions_say(inner, nfe):
    network, fixed = Uncached(transformer()), torch.zeros(5, 8, dtype=torch.bool)
    fixed[0, :6] = fixed[1, 3] = True
    solution = BlockSampler(inner).sample(network, WORDS, (5, 8), nfe, stream(4), (torch.arange(8), fixed))
    assert (solution.stats.nfe <= nfe).all()
    assert (solution.stats.nfe <= (~fixed).sum(-1)).all()
    assert solution.stats.nfe.sum() == network.asked
    assert solution.final.max() < 10


def test_a_prompt_that_gives_everything_costs_no_evaluation():
    network, tokens = Uncached(transformer()), torch.arange(8)
    solution = BlockSampler().sample(network, WORDS, (3, 8), 8, stream(), (tokens, torch.ones(8, dtype=torch.bool)))
    assert network.asked == 0
    assert solution.stats.nfe.eq(0).all()
    assert torch.equal(solution.final, tokens.expand(3, 8))


def test_a_budget_is_split_over_the_blocks_with_something_to_do():
    assert list(split_budget(8, [4, 4, 4, 4])) == [2, 2, 2, 2]
    assert sorted(split_budget(10, [4, 4, 4, 4])) == [2, 2, 3, 3]
    assert list(split_budget(2, [4, 4, 4, 4])) == [1, 1, 1, 1]  # one each at least
    assert list(split_budget(6, [0, 1, 4, 0])) == [0, 1, 5, 0]
    for nfe in range(4, 30):
        assert sum(split_budget(nfe, [3, 4, 2, 4])) == nfe


def test_prompts_within_a_block_and_before_it_are_conditioned_on_exactly():
    truth, tokens = law(), torch.tensor([1, 0, 0, 2])
    fixed = torch.tensor([True, False, False, True])
    solution = BlockSampler().sample(EnumeratedBlocks(truth, 4), KERNEL, (6000, 4), 4, stream(5), (tokens, fixed))
    fits = (truth.sequences[:, 0] == 1) & (truth.sequences[:, 3] == 2)
    assert p_value(truth.probs * fits / (truth.probs * fits).sum(), truth, solution.final) > 1e-3


def test_tokens_given_in_later_blocks_are_kept_and_not_seen_before():
    truth, tokens = law(), torch.tensor([1, 0, 0, 2])
    fixed = torch.tensor([True, False, False, True])
    solution = BlockSampler().sample(EnumeratedBlocks(truth, 2), KERNEL, (6000, 4), 4, stream(6), (tokens, fixed))
    sequences, probs = truth.sequences, truth.probs
    first = torch.zeros_like(probs)
    for index, row in enumerate(sequences):
        if row[0] != 1 or row[3] != 2:
            continue
        given = probs[sequences[:, 0] == 1].sum()
        same = (sequences[:, :2] == row[:2]).all(-1)
        end = probs[same & (sequences[:, 3] == 2)].sum()
        first[index] = probs[same].sum() / given * probs[index] / end
    assert p_value(first, truth, solution.final) > 1e-3


def test_a_last_block_that_is_not_whole_follows_the_law_of_its_first_tokens():
    truth = law()
    solution = BlockSampler().sample(EnumeratedBlocks(truth, 2), KERNEL, (6000, 3), 4, stream(7))
    assert solution.final.shape == (6000, 3)
    shorter = EnumeratedLaw(truth.probs.reshape(3, 3, 3, 3).sum(-1))
    assert p_value(shorter.probs, shorter, solution.final) > 1e-3


def test_one_block_is_the_inner_sampler():
    network = transformer(8)
    found = BlockSampler(AncestralSampler()).sample(network, WORDS, (4, 8), 5, stream(8))
    expected = AncestralSampler().sample(network, WORDS, (4, 8), 5, stream(8))
    assert torch.equal(found.final, expected.final)
    assert torch.equal(found.stats.nfe, expected.stats.nfe)


def test_states_are_kept_from_all_masks_on_and_time_runs_from_one_to_zero():
    solution = BlockSampler().sample(transformer(), WORDS, (4, 8), 8, stream(9), save_steps=True)
    assert torch.allclose(solution.ts, torch.linspace(1, 0, 9, dtype=torch.float64))
    assert (solution.ys == 10).sum(-1).tolist() == [[8 - k] * 4 for k in range(9)]
    assert (solution.ys[4, :, 4:] == 10).all()
    last = BlockSampler().sample(transformer(), WORDS, (4, 8), 8, stream(9))
    assert last.ys.shape == (1, 4, 8)
    assert torch.equal(last.final, solution.final)


def test_what_does_not_suit_is_refused_by_name():
    with pytest.raises(ValueError, match="TokenTransformer has no block_length"):
        BlockSampler().sample(TokenTransformer(11, 8, 16, 1, 2), WORDS, (2, 8), 4, stream())
    with pytest.raises(TypeError, match="UniformKernel"):
        BlockSampler().sample(transformer(), UniformKernel(11, LinearSurvival()), (2, 8), 4, stream())
    with pytest.raises(ValueError, match="nfe = 0"):
        BlockSampler().sample(transformer(), WORDS, (2, 8), 0, stream())


@inner
def test_the_class_reaches_the_network_with_and_without_a_cache(inner):
    torch.manual_seed(0)
    network = BlockTransformer(11, 8, 16, 2, 2, 2, classes=3).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    labels, fixed = torch.tensor([0, 1, 2, -1, 1]), torch.zeros(5, 8, dtype=torch.bool)
    fixed[0, :6] = fixed[1, 3] = True  # some sequences have nothing to do in some blocks
    found = [
        BlockSampler(inner).sample(each, WORDS, (5, 8), 5, stream(4), (torch.arange(8), fixed), cond=cond).final
        for each, cond in ((network, labels), (Uncached(network), labels), (network, 2 - labels))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
