"""Depth views on Transformers whose blocks are known to do nothing, or to do harm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isocline.dynamics.depth_view import (
    depth_states,
    early_exits,
    effective_rank,
    logit_lens,
    loss_rises,
    skipping,
    state_geometry,
    trunk_of,
)
from isocline.networks.mlp import MLP
from isocline.networks.transformer import TokenTransformer

D = torch.float64
V, L = 7, 6


@pytest.fixture
def network() -> TokenTransformer:
    torch.manual_seed(0)
    made = TokenTransformer(V, L, 16, 3, 2, time_conditioned=False)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval().requires_grad_(False)


TOKENS = torch.randint(V, (4, L), generator=torch.Generator().manual_seed(1))
EVERYWHERE = torch.ones_like(TOKENS, dtype=torch.bool)


def silence(network: TokenTransformer, index: int) -> None:
    """Make a block add nothing."""
    block = network.trunk.blocks[index]
    for part in (block.attention.out, block.mlp[-1]):
        nn.init.zeros_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def evaluation(network: TokenTransformer):
    return lambda: network(None, TOKENS).log_softmax(-1)


def test_a_block_that_adds_nothing_contributes_nothing_and_the_others_something(network: TokenTransformer) -> None:
    silence(network, 1)
    rises = loss_rises(network.trunk, evaluation(network), TOKENS, EVERYWHERE)
    assert rises.shape == (3, 4)
    assert float(rises[1].abs().max()) < 1e-6
    assert float(rises[[0, 2]].abs().min()) > 1e-4
    lens = logit_lens(early_exits(network.trunk, evaluation(network)), TOKENS, EVERYWHERE)
    torch.testing.assert_close(lens.cross_entropy[1], lens.cross_entropy[2], rtol=1e-6, atol=1e-6)


def test_without_a_block_the_network_is_the_one_whose_block_adds_nothing(network: TokenTransformer) -> None:
    with skipping(network.trunk, [0, 2]):
        skipped = network(None, TOKENS)
    whole = network(None, TOKENS)
    silence(network, 0)
    silence(network, 2)
    torch.testing.assert_close(skipped, network(None, TOKENS))
    assert not torch.allclose(skipped, whole)


def test_exits_run_from_the_embedding_to_the_network_itself_and_leave_no_hook(network: TokenTransformer) -> None:
    exits = list(early_exits(network.trunk, evaluation(network)))
    assert len(exits) == 4
    trunk = network.trunk
    embedded = trunk.norm(network.embed(TOKENS) + trunk.positions)
    torch.testing.assert_close(exits[0], (embedded @ network.embed.weight.T + network.bias).log_softmax(-1))
    assert torch.equal(exits[-1], evaluation(network)())
    lens = logit_lens(exits, TOKENS, EVERYWHERE)
    assert float(lens.divergence[-1].abs().max()) < 1e-12
    assert lens.agreement[-1].tolist() == [1.0] * 4
    assert bool((lens.divergence[:-1] > 0).all())


def test_the_lens_counts_the_positions_that_it_is_given_with_the_closed_forms() -> None:
    even, sharp = torch.full((1, 2, 4), 0.25).log(), torch.tensor([[[0.7, 0.1, 0.1, 0.1]] * 2]).log()
    truth = torch.tensor([[0, 1]])
    lens = logit_lens([even, sharp], truth, torch.tensor([[True, False]]))
    assert lens.cross_entropy[:, 0].tolist() == pytest.approx([math.log(4), -math.log(0.7)])
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.1))
    assert lens.divergence[0].item() == pytest.approx(math.log(4) - entropy)
    both = logit_lens([sharp], truth, torch.tensor([[True, True]]))
    assert both.cross_entropy.item() == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2)


def test_a_law_with_impossible_symbols_has_a_finite_divergence() -> None:
    last = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    assert logit_lens([last, last], torch.tensor([[0]]), torch.tensor([[True]])).divergence.tolist() == [[0.0], [0.0]]


def test_the_recorded_states_are_those_of_the_blocks(network: TokenTransformer) -> None:
    states = depth_states(network.trunk, evaluation(network))
    assert states.shape == (4, 4, L, 16)
    torch.testing.assert_close(states[0], network.embed(TOKENS) + network.trunk.positions)
    torch.testing.assert_close(states[2], network.trunk.blocks[1](states[1], None))


def test_a_network_that_calls_no_block_or_has_none_is_refused(network: TokenTransformer) -> None:
    with pytest.raises(ValueError, match="0 calls of 3 blocks"):
        depth_states(network.trunk, lambda: torch.zeros(1))
    with pytest.raises(ValueError, match="no Transformer"):
        trunk_of(MLP(2, 4, 1))


def test_updates_on_one_line_a_right_angle_and_back_have_the_angles_zero_half_pi_and_pi() -> None:
    east, north = torch.tensor([1.0, 0.0], dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    places = torch.stack([east, 2 * east, 4 * east, 4 * east + north, 4 * east, 4 * east])
    found = state_geometry(places[:, None, None])
    assert found.angle[:, 0].tolist() == pytest.approx([0, math.pi / 2, math.pi, math.pi / 2])
    assert found.step[:2, 0].tolist() == pytest.approx([1, 1])
    assert found.step[-1, 0] == 0


def test_the_effective_rank_counts_equal_directions_and_ignores_the_mean() -> None:
    cross = torch.cat([torch.eye(5, dtype=D), -torch.eye(5, dtype=D)])
    assert float(effective_rank(cross + 100)) == pytest.approx(5)
    assert float(effective_rank(cross[:, :1] @ torch.ones(1, 4, dtype=D))) == pytest.approx(1)
    assert float(effective_rank(torch.ones(3, 4))) == pytest.approx(1)
