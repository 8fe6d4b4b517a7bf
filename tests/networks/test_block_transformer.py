"""Blocks see what they may see, in one pass, in several, and from a cache."""

import pytest
import torch

from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.transformer import TokenTransformer

MASK = 10


def perturbed(block_length, noisy_depth=None, relative=True):
    torch.manual_seed(0)
    network = BlockTransformer(11, 8, 16, 2, 2, block_length, noisy_depth, relative).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def noisy(clean, seed=1):
    hidden = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return clean.masked_fill(hidden, MASK)


def tokens(rows=3, length=8):
    return torch.randint(MASK, (rows, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("noisy_depth", "relative"), [(2, True), (1, True), (2, False)])
@pytest.mark.parametrize("block_length", [1, 2, 4, 8])
def test_one_pass_over_noisy_and_clean_tokens_is_a_pass_for_every_block(block_length, noisy_depth, relative):
    network, clean = perturbed(block_length, noisy_depth, relative), tokens()
    z = noisy(clean)
    together = network(None, z, clean=clean)
    for start in range(0, 8, block_length):
        end = start + block_length
        alone = network(None, torch.cat([clean[:, :start], z[:, start:end]], 1))[:, start:]
        torch.testing.assert_close(together[:, start:end], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block_length", [1, 2, 4])
def test_no_block_sees_its_own_clean_tokens_nor_later_ones(block_length):
    network, clean = perturbed(block_length), tokens()
    z = noisy(clean)
    logits = network(None, z, clean=clean)
    for place in range(8):
        other = clean.clone()
        other[:, place] = (other[:, place] + 1) % MASK
        changed = (network(None, z, clean=other) - logits).abs().amax(-1) > 1e-9
        next_block = (place // block_length + 1) * block_length
        assert not changed[:, :next_block].any()
        assert changed[:, next_block:].all()


@pytest.mark.parametrize("block_length", [2, 4])
def test_a_noisy_token_is_seen_by_its_own_block_alone(block_length):
    network, clean = perturbed(block_length), tokens()
    z = noisy(clean)
    other = z.clone()
    other[:, 3] = (other[:, 3] + 1) % MASK
    changed = (network(None, other, clean=clean) - network(None, z, clean=clean)).abs().amax(-1) > 1e-9
    first = 3 // block_length * block_length
    assert changed[:, first : first + block_length].all()
    assert not torch.cat([changed[:, :first], changed[:, first + block_length :]], 1).any()


def test_one_block_is_the_bidirectional_network_with_the_same_weights():
    network, z = perturbed(8), noisy(tokens())
    other = TokenTransformer(11, 8, 16, 2, 2, time_conditioned=False, relative=True).double()
    other.load_state_dict(network.state_dict())
    expected = other(None, z)
    torch.testing.assert_close(network(None, z, clean=tokens()), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(network(None, z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("noisy_depth", [1, 2])
def test_decoding_with_a_cache_is_the_full_forward_whenever_blocks_are_handed_in(noisy_depth):
    network, clean = perturbed(2, noisy_depth), tokens()
    z = noisy(clean)
    expected = network(None, z, clean=clean)
    cache = network.empty_cache(3)
    none = clean[:, :0]
    first, cache = network.decode_block(none, z[:, 0:2], cache)
    again, cache = network.decode_block(none, z[:, 0:2], cache)  # a second step in the same block
    third, cache = network.decode_block(clean[:, 0:4], z[:, 4:6], cache)  # the second block was not evaluated
    last, cache = network.decode_block(clean[:, 4:6], z[:, 6:8], cache)
    assert cache.keys[0].shape[2] == 6
    for found, start in ((first, 0), (again, 0), (third, 4), (last, 6)):
        torch.testing.assert_close(found, expected[:, start : start + 2], rtol=0, atol=1e-12)


def test_noisy_tokens_pass_the_last_layers_only():
    clean = tokens()
    for noisy_depth, changes in ((1, False), (2, True)):
        network = perturbed(2, noisy_depth)
        before = network(None, noisy(clean), clean=clean)
        with torch.no_grad():
            network.trunk.blocks[0].mlp[2].bias.add_(torch.linspace(0, 1, 16))
        changed = (network(None, noisy(clean), clean=clean) - before).abs().amax((0, 2)) > 1e-9
        assert changed.tolist() == [changes] * 2 + [True] * 6  # the first block has no clean tokens before it


def test_logits_are_computed_where_they_are_wanted():
    network, clean = perturbed(4), tokens()
    z = noisy(clean)
    logits = network(None, z, clean=clean)
    assert torch.equal(network(None, z, clean=clean, where=z == MASK), logits[z == MASK])


def test_clean_tokens_predict_the_next_without_seeing_it():
    network, clean = perturbed(2), tokens()
    found = network.predictions(noisy(clean), clean)
    torch.testing.assert_close(found.denoised, network(None, noisy(clean), clean=clean))
    other = clean.clone()
    other[:, 3] = (other[:, 3] + 1) % MASK
    changed = (network.predictions(noisy(clean), other).following - found.following).abs().amax(-1) > 1e-9
    assert changed.tolist() == [[False] * 3 + [True] * 3] * 3


def test_gradients_reach_every_parameter_and_are_finite():
    network, clean = perturbed(2), tokens()
    network(None, noisy(clean), clean=clean).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_blocks_that_do_not_divide_the_sequence_are_refused():
    with pytest.raises(ValueError, match="block_length = 3 does not divide length = 8"):
        BlockTransformer(11, 8, 16, 2, 2, 3)


@pytest.mark.parametrize("noisy_depth", [0, 3])
def test_a_noisy_depth_beyond_the_depth_is_refused(noisy_depth):
    with pytest.raises(ValueError, match=f"noisy_depth = {noisy_depth}"):
        BlockTransformer(11, 8, 16, 2, 2, 2, noisy_depth)
