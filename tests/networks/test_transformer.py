"""The Transformer: shapes, locality, causality, caching, zero initialisation."""

from __future__ import annotations

import pytest
import torch

from isocline.networks.attention import RelativeBias
from isocline.networks.transformer import PatchTransformer, TokenTransformer, Transformer


def perturbed(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return network.eval()


@pytest.mark.parametrize(("channels", "size", "patch"), [(1, 28, 4), (3, 32, 8), (2, 8, 2)])
def test_a_patch_transformer_returns_a_field_of_the_images_shape(channels: int, size: int, patch: int) -> None:
    network = perturbed(PatchTransformer(channels, size, patch, 16, 2, 2))
    x = torch.randn(3, channels, size, size)
    assert network(torch.rand(3), x).shape == x.shape
    assert torch.allclose(network(torch.tensor(0.3), x), network(torch.full((3,), 0.3), x), atol=1e-5)


def test_a_fresh_field_is_zero_because_gates_and_head_start_at_zero() -> None:
    network = PatchTransformer(1, 8, 2, 16, 2, 2)
    assert torch.equal(network(torch.rand(4), torch.randn(4, 1, 8, 8)), torch.zeros(4, 1, 8, 8))


def test_patches_are_put_back_where_they_came_from() -> None:
    network = PatchTransformer(2, 8, 4, 32, 1, 2)
    with torch.no_grad():  # embed each patch as itself, no blocks, read it out again
        network.embed.weight.copy_(torch.eye(32).view(32, 2, 4, 4))
        network.embed.bias.zero_()
        network.trunk.positions.zero_()
        network.head.weight.copy_(torch.eye(32))
        network.trunk.norm = torch.nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, 2, 8, 8)
    assert torch.allclose(network(torch.rand(2), x), x, atol=1e-6)


def test_the_time_matters_and_labels_matter() -> None:
    network = perturbed(PatchTransformer(1, 8, 2, 16, 2, 2, classes=3))
    x = torch.randn(2, 1, 8, 8)
    t = torch.full((2,), 0.5)
    none, zero, one = network(t, x), network(t, x, torch.tensor([0, 0])), network(t, x, torch.tensor([1, 1]))
    assert not torch.allclose(zero, one)
    assert not torch.allclose(none, zero)
    assert torch.allclose(none, network(t, x, torch.tensor([3, 3])), atol=1e-6)
    assert not torch.allclose(network(t, x), network(t + 0.1, x))


def test_a_causal_network_does_not_look_ahead() -> None:
    network = perturbed(TokenTransformer(11, 6, 16, 2, 2, causal=True, time_conditioned=False))
    z = torch.randint(0, 11, (2, 6))
    changed = z.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    a, b = network(None, z), network(None, changed)
    assert torch.allclose(a[:, :4], b[:, :4], atol=1e-6)
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_decoding_with_a_cache_gives_the_logits_of_the_full_forward() -> None:
    network = perturbed(TokenTransformer(11, 6, 16, 2, 2, causal=True, time_conditioned=False))
    z = torch.randint(0, 11, (3, 6))
    cache, rows = network.empty_cache(3), []
    for i in range(6):
        logits, cache = network.decode_step(z[:, i], cache)
        rows.append(logits)
    assert torch.allclose(torch.stack(rows, 1), network(None, z), atol=1e-5)


def test_a_bidirectional_network_has_no_cache() -> None:
    with pytest.raises(ValueError, match="causal = true"):
        TokenTransformer(11, 6, 16, 2, 2).empty_cache(2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1, 28, 5, 16, 2, 2), "patch = 5"), ((1, 28, 4, 16, 2, 3), "heads = 3"), ((1, 28, 4, 16, 0, 2), "depth = 0")],
)
def test_wrong_sizes_are_named(arguments: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        PatchTransformer(*arguments)


def test_the_relative_bias_begins_with_heads_at_the_neighbours() -> None:
    bias = RelativeBias(4, 6)(5)
    assert bias.shape == (4, 5, 5)
    assert [int(row.argmax()) for row in bias[0][1:]] == [0, 1, 2, 3]
    assert [int(row.argmax()) for row in bias[1][:-1]] == [1, 2, 3, 4]
    assert torch.equal(bias[2:].argmax(-1), torch.arange(5).expand(2, 5))
    assert float(bias[0, 3, 1]) == -2.0  # one beyond the left neighbour, at slope 2


def test_attention_follows_the_relative_bias() -> None:
    torch.manual_seed(0)
    network = TokenTransformer(7, 6, 8, 1, 2, time_conditioned=False, relative=True)
    block = network.trunk.blocks[0]
    with torch.no_grad():  # every head at the left neighbour alone
        block.attention.bias.table.fill_(-1e9)
        block.attention.bias.table[:, 6 - 2] = 0.0
    z = torch.tensor([[1, 2, 3, 4, 5]])
    other = z.clone()
    other[0, 1] = 6
    changed = (network(None, z) - network(None, other)).abs().amax(-1)[0] > 1e-6
    assert changed.tolist()[1:] == [True, True, False, False]  # the first position has no left neighbour


def test_a_relative_bias_is_refused_where_attention_is_causal() -> None:
    with pytest.raises(ValueError, match="relative = true"):
        TokenTransformer(7, 6, 8, 1, 2, causal=True, time_conditioned=False, relative=True)


@pytest.mark.parametrize("causal", [True, False])
def test_a_network_that_is_not_told_the_time_takes_a_class_in_every_token(causal: bool) -> None:
    network = perturbed(TokenTransformer(7, 5, 16, 2, 2, causal=causal, time_conditioned=False, classes=3))
    z = torch.arange(15).reshape(3, 5) % 7
    found = network(None, z, torch.tensor([0, 1, -1]))
    for row, label in enumerate((0, 1, None)):
        cond = None if label is None else torch.tensor([label])
        torch.testing.assert_close(network(None, z[row : row + 1], cond)[0], found[row])
    same = network(None, z[:1].expand(2, -1), torch.tensor([0, 2]))
    assert (same[0] - same[1]).abs().amax(-1).min() > 1e-3


def test_decoding_with_a_cache_knows_the_class() -> None:
    network = perturbed(TokenTransformer(7, 5, 16, 2, 2, causal=True, time_conditioned=False, classes=3))
    z, labels = torch.arange(10).reshape(2, 5) % 7, torch.tensor([2, 0])
    cache, logits = network.empty_cache(2), []
    for position in range(5):
        step, cache = network.decode_step(z[:, position], cache, labels)
        logits.append(step)
    torch.testing.assert_close(torch.stack(logits, dim=1), network(None, z, labels))


def lean(condition_width: int | None, **more: object) -> TokenTransformer:
    torch.manual_seed(0)
    return TokenTransformer(1024, 64, 128, 4, 4, relative=True, condition_width=condition_width, **more)


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_lean_condition_costs_a_twentieth_of_the_parameters_at_most_and_a_full_one_near_half() -> None:
    untimed = parameters(lean(None, time_conditioned=False))
    assert parameters(lean(16)) < 1.05 * untimed
    assert parameters(lean(None)) > 1.4 * untimed


def test_a_lean_condition_begins_at_the_identity_and_then_tells_the_time_and_the_class_to_every_block() -> None:
    torch.manual_seed(0)
    network = TokenTransformer(7, 5, 16, 3, 2, classes=3, condition_width=4)
    z, t = torch.arange(5)[None], torch.tensor(0.3)
    h = network.embed(z)
    torch.testing.assert_close(network(t, z), network.logits(network.trunk.norm(h + network.trunk.positions)))
    network = perturbed(network)
    states = network.trunk.trajectory(network.embed(z), network.condition(t, None))
    assert len(states) == 4
    torch.testing.assert_close(
        network.logits(network.trunk.features(states[-1], network.condition(t, None))), network(t, z)
    )
    for other in (network.condition(torch.tensor(0.6), None), network.condition(t, torch.tensor([1]))):
        changed = network.trunk.trajectory(network.embed(z), other)
        assert all((a - b).abs().max() > 1e-4 for a, b in zip(states[1:], changed[1:], strict=True))


def test_blocks_with_one_projection_each_are_those_of_a_shared_one_with_equal_offsets() -> None:
    """The shared projection of a condition c plus a block's offset is a projection of its own with another bias."""
    torch.manual_seed(0)
    shared = perturbed(Transformer(5, 16, 2, 2, condition_width=16))
    own = Transformer(5, 16, 2, 2)
    state = {
        name: value for name, value in shared.state_dict().items() if "offset" not in name and "shared" not in name
    }
    for number in range(2):
        state[f"blocks.{number}.modulation.weight"] = shared.shared.weight
        state[f"blocks.{number}.modulation.bias"] = shared.shared.bias + shared.blocks[number].modulation.offset
    own.load_state_dict(state)
    x, c = torch.randn(3, 5, 16), torch.randn(3, 16)
    torch.testing.assert_close(shared(x, c), own(x, c))
