"""Every depth integrator in the Transformer: causality, parameters, checkpoints, sampling, gradients."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import Tensor

from isocline.app.artifacts import build
from isocline.networks.depth import continuous
from isocline.networks.depth.euler import Euler
from isocline.networks.depth.implicit_euler import ImplicitEuler
from isocline.networks.depth.iteration_pruning import iteration_contributions, kept_iterations, with_iterations
from isocline.networks.transformer import PatchTransformer, TokenTransformer
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.solvers.controller import root_mean_square
from isocline.solvers.gradient import Backpropagation, DiscreteAdjoint

ROOT = Path(__file__).parents[3]
ODD_NAMES = ["predictor_corrector", "implicit", "leapfrog", "momentum", "continuous"]
SPLITTINGS = ["strang", "strang_untied", "lie_trotter", "parallel"]
NAMES = ["rk2", "rk4", "rk2_learned", "rk4_learned", *SPLITTINGS, *ODD_NAMES]


@functools.cache
def section(name: str) -> dict:
    """The network's file under conf/, without the rest of the configuration."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        found = hydra_compose(config_name=f"network/{name}")
    return dict(OmegaConf.to_container(found)["network"])


def made(name: str, causal: bool, **changes: object) -> TokenTransformer:
    torch.manual_seed(0)
    small = {"vocab_size": 11, "length": 12, "width": 16, "depth": 3, "heads": 2}
    network = build({**section(name), **small, "causal": causal, "relative": not causal, **changes})
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draws))
    return network.eval()


def tokens(rows: int = 2) -> Tensor:
    return torch.randint(0, 10, (rows, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_a_later_token_never_changes_earlier_logits(name: str) -> None:
    network, z = made(name, causal=True), tokens()
    changed = z.clone()
    changed[:, 7] = (z[:, 7] + 1) % 10
    with torch.no_grad():
        a, b = network(None, z), network(None, changed)
    torch.testing.assert_close(a[:, :7], b[:, :7], rtol=0, atol=2e-6)
    assert (a[:, 7:] - b[:, 7:]).abs().max() > 1e-3


def test_adaptive_steps_of_a_causal_network_follow_its_first_position(monkeypatch: pytest.MonkeyPatch) -> None:
    network, z = made("continuous", causal=True), tokens()
    z[:, 0] = 10
    changed = z.clone()
    changed[:, 7:] = (z[:, 7:] + 1) % 10
    trunk = network.trunk
    with torch.no_grad():
        x, y = (network.embed(part) + trunk.positions for part in (z, changed))
        nfe = trunk.integrator.solution(trunk.blocks, x, None).stats.nfe
        assert nfe[0] == nfe[1]
        # Were they to follow all positions, later tokens would act on earlier ones.
        monkeypatch.setattr(continuous, "first_position", root_mean_square)
        leak = (network(None, z) - network(None, changed))[:, :7].abs().max()
    assert leak > 1e-5
    assert not torch.equal(x, y)


@pytest.mark.parametrize("name", NAMES)
def test_a_bidirectional_network_sees_all_positions_and_every_weight_is_trained(name: str) -> None:
    network, z = made(name, causal=False), tokens()
    network.train()
    before = network(None, z)
    changed = z.clone()
    changed[:, 7] = (z[:, 7] + 1) % 10
    assert (before - network(None, changed)).abs().amax(-1).min() > 0
    before.log_softmax(-1)[..., :10].square().mean().backward()
    untouched = [label for label, weight in network.named_parameters() if weight.grad is None]
    assert not untouched
    assert all(bool(weight.grad.isfinite().all()) for weight in network.parameters())


@pytest.mark.parametrize("name", ["rk4", "continuous", "predictor_corrector"])
def test_a_network_that_is_told_the_time_is_integrated_too(name: str) -> None:
    network, z = made(name, causal=False, time_conditioned=True), tokens()
    early, late = (network(torch.full((2,), t), z) for t in (0.1, 0.9))
    assert (early - late).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["rk2", "rk4", "strang", "strang_untied", "lie_trotter", "parallel", "implicit"])
def test_methods_without_coefficients_of_their_own_have_the_ordinary_parameters(name: str) -> None:
    ordinary = made("token_transformer", causal=True).state_dict()
    found = made(name, causal=True).state_dict()
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in ordinary.items()}


@pytest.mark.parametrize(
    ("name", "more"),
    [("leapfrog", 0), ("rk2_learned", 3 * 2), ("rk4_learned", 3 * 4), ("predictor_corrector", 3 + 2 + 3 + 3)],
)
def test_learned_coefficients_are_all_that_is_added(name: str, more: int) -> None:
    count, ordinary = (
        sum(weight.numel() for weight in made(n, causal=True).parameters()) for n in (name, "token_transformer")
    )
    assert count == ordinary + more


def test_a_continuous_network_has_the_weights_of_one_block() -> None:
    tied, single = made("continuous", causal=True, depth=5), made("token_transformer", causal=True, depth=1)
    count, ordinary = (sum(weight.numel() for weight in network.parameters()) for network in (tied, single))
    assert count == ordinary + 2 * 16
    assert len(tied.trunk.blocks) == 1


def test_euler_is_the_ordinary_network_bit_for_bit() -> None:
    torch.manual_seed(0)
    arguments = {"vocab_size": 11, "length": 12, "width": 16, "depth": 3, "heads": 2, "causal": True}
    plain = TokenTransformer(**arguments, time_conditioned=False)
    named = TokenTransformer(**arguments, time_conditioned=False, integrator=Euler)
    named.load_state_dict(plain.state_dict())
    z = tokens()
    x = plain.embed(z) + plain.trunk.positions
    for block in plain.trunk.blocks:
        x = block(x, None)
    by_hand = torch.nn.functional.linear(plain.trunk.norm(x), plain.embed.weight, plain.bias)
    assert torch.equal(plain(None, z), by_hand)
    assert torch.equal(named(None, z), by_hand)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_branches_of_a_block_are_the_block(conditioned: bool) -> None:
    network = made("token_transformer", causal=False, time_conditioned=conditioned)
    block, x = network.trunk.blocks[1], torch.randn(2, 12, 16)
    c = torch.randn(2, 16) if conditioned else None
    parts = block.branches(c)
    torch.testing.assert_close(x + parts.field(x), block(x, c), rtol=1e-5, atol=1e-5)
    halves = sum(half(x) for half in parts.mlp_halves)
    torch.testing.assert_close(halves, parts.mlp(x), rtol=1e-5, atol=1e-5)
    assert (parts.mlp_halves[0](x) - parts.mlp_halves[1](x)).abs().max() > 0.01


def test_a_checkpoint_from_before_depth_integrators_still_loads() -> None:
    names = set(TokenTransformer(11, 12, 16, 1, 2, causal=True, time_conditioned=False).state_dict())
    block = {
        *(f"attention.{part}.{kind}" for part in ("qkv", "out") for kind in ("weight", "bias")),
        *(f"norm{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")),
        *(f"mlp.{number}.{kind}" for number in (0, 2) for kind in ("weight", "bias")),
    }
    others = {"bias", "embed.weight", "trunk.positions", "trunk.norm.weight", "trunk.norm.bias"}
    assert names == others | {f"trunk.blocks.0.{part}" for part in block}


@pytest.mark.parametrize("name", NAMES)
def test_sampling_one_token_after_another_needs_no_cache(name: str) -> None:
    network = made(name, causal=True)
    with pytest.raises(ValueError, match=r"integrator is Euler.*whole prefix"):
        network.empty_cache(2)
    found = AutoregressiveSampler(temperature=0.0).sample(
        network, None, (2, 12), None, torch.Generator().manual_seed(0)
    )
    z = found.final
    begin = torch.full_like(z[:, :1], 10)
    with torch.no_grad():
        logits = network(None, torch.cat([begin, z[:, :-1]], 1))[..., :10]
    assert torch.equal(logits.argmax(-1), z)


def test_patches_are_integrated_too() -> None:
    method = functools.partial(ImplicitEuler, iterations=2)
    network = PatchTransformer(1, 8, 2, 16, 2, 2, integrator=method)
    assert network(torch.rand(2), torch.randn(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_the_adjoint_of_continuous_depth_is_the_gradient_through_its_steps() -> None:
    network, z = made("continuous", causal=True), tokens()
    assert isinstance(network.trunk.integrator.gradient, DiscreteAdjoint)
    gradients = []
    for method in (DiscreteAdjoint(), Backpropagation()):
        network.trunk.integrator.gradient = method
        network.zero_grad()
        network(None, z).log_softmax(-1).square().mean().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters()]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_iterations_that_move_nothing_are_pruned_and_the_logits_stay() -> None:
    network = made("implicit", causal=True)
    network.trunk.integrator = ImplicitEuler(3, 16, 6)
    with torch.no_grad():
        for number, block in enumerate(network.trunk.blocks):  # the later a block, the stronger it contracts
            for layer in (block.attention.out, block.mlp[2]):
                layer.weight.mul_(0.3**number)
    shares = iteration_contributions(network, [tokens(4)])
    assert [len(row) for row in shares] == [6, 6, 6]
    assert all(row[5] < row[1] < row[0] for row in shares)
    kept = kept_iterations(shares, 1e-3)
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 6
    pruned = with_iterations(network, kept)
    with torch.no_grad():
        difference = (pruned(None, tokens()) - network(None, tokens())).abs().max()
    assert 0 < difference < 0.02
    assert network.trunk.integrator.iterations == [6, 6, 6]
    assert kept_iterations(shares, 1e9) == [1, 1, 1]


def test_the_first_iterations_contribution_is_the_length_of_eulers_step() -> None:
    network = made("implicit", causal=True, depth=1)
    expected = []
    for z in (tokens(), tokens(3)):
        with torch.no_grad():
            x = network.embed(z) + network.trunk.positions
            y = network.trunk.blocks[0](x, None)
        expected.append(float(((y - x).norm(dim=-1) / y.norm(dim=-1)).mean()))
    shares = iteration_contributions(network, [tokens(), tokens(3)])
    assert shares[0][0] == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_only_implicit_networks_are_pruned() -> None:
    with pytest.raises(TypeError, match="network=implicit"):
        iteration_contributions(made("rk2", causal=True), [tokens()])
    with pytest.raises(ValueError, match="no batches"):
        iteration_contributions(made("implicit", causal=True), [])
