"""Depth as time: as many Euler steps of length 1 as there are layers are the network."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isocline.dynamics.depth_field import depth_of, layer_field, residual_layers
from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.classifier import ResidualClassifier
from isocline.networks.depth.runge_kutta import RungeKutta
from isocline.networks.leave_one_out import LeaveOneOut
from isocline.networks.soft_token_transformer import SoftTokenTransformer
from isocline.networks.transformer import PatchTransformer, TokenTransformer
from isocline.networks.unet import UNet
from isocline.processes.kernel import UniformKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import Euler, Heun
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem, VectorField

DEPTH, LENGTH, VOCABULARY = 3, 6, 11
SIZES = {"length": LENGTH, "width": 8, "depth": DEPTH, "heads": 2}


def stirred(network: nn.Module) -> nn.Module:
    """The network with weights away from the zeros that some begin at."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=draw)
    return network.eval()


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY - 1, (4, LENGTH), generator=torch.Generator().manual_seed(1))


def soft() -> Tensor:
    return torch.randn(4, LENGTH, VOCABULARY - 1, generator=torch.Generator().manual_seed(1)).softmax(-1)


def images() -> Tensor:
    return torch.randn(4, 1, 4, 6, generator=torch.Generator().manual_seed(1))[..., :4]


def by_euler(field: VectorField, start: Tensor, steps: int) -> Tensor:
    return solve_strict(ODEProblem(field, start, 0.0, float(steps)), Euler(), ConstantSteps(steps)).final


T = torch.tensor(0.4, dtype=torch.float64)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "causal": (lambda: TokenTransformer(VOCABULARY, **SIZES, causal=True, time_conditioned=False), tokens),
    "timed with a bias": (lambda: TokenTransformer(VOCABULARY, **SIZES, relative=True), tokens),
    "timed by one projection": (lambda: TokenTransformer(VOCABULARY, **SIZES, condition_width=4), tokens),
    "wrapped": (
        lambda: LeaveOneOut(TokenTransformer(VOCABULARY, **SIZES), UniformKernel(VOCABULARY, LinearSurvival())),
        tokens,
    ),
    "soft tokens": (lambda: SoftTokenTransformer(VOCABULARY, **SIZES), soft),
    "patches": (lambda: PatchTransformer(1, 4, 2, 8, DEPTH, 2), images),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_unit_euler_steps_as_layers_are_the_network(name: str) -> None:
    make, draw = NETWORKS[name]
    network, inputs = stirred(make()), draw()
    depth = depth_of(network, lambda other, x: other(T, x))
    assert depth.length == DEPTH
    with torch.no_grad():
        end = by_euler(depth.field(network, inputs[:1]), depth.start(network, inputs), DEPTH)
        assert torch.allclose(depth.output(network, inputs, end), network(T, inputs), atol=1e-5)
        early = by_euler(depth.field(network, inputs[:1]), depth.start(network, inputs), DEPTH - 1)
        assert not torch.allclose(depth.output(network, inputs, early), network(T, inputs), atol=1e-2)


def test_the_clean_stream_of_a_block_network_predicts_what_it_predicts_of_the_next_token() -> None:
    network = BlockTransformer(VOCABULARY, **SIZES, block_length=2)
    stirred(network)
    clean = tokens()
    depth = depth_of(network, lambda other, x: other(T, x))
    with torch.no_grad():
        end = by_euler(depth.field(network, clean[:1]), depth.start(network, clean), DEPTH)
        following = network.predictions(clean, clean).following
        assert torch.allclose(depth.output(network, clean, end)[:, : following.shape[1]], following, atol=1e-5)


def test_the_blocks_of_a_residual_classifier_are_its_layers() -> None:
    network = ResidualClassifier(1, 8, 3, width=4, blocks=3).eval()
    h = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(by_euler(layer_field(residual_layers(network)), h, 3), network.transform(h)[0], atol=1e-6)


def test_samples_at_different_depths_each_get_their_own_layer() -> None:
    field = layer_field([lambda x: x, lambda x: -2 * x, lambda x: 10 * x])
    x, t = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([2.5, 0.0, 1.0, 0.9])
    assert field(t, x, None).flatten().tolist() == [10.0, 2.0, -6.0, 4.0]
    assert field(torch.tensor(3.0), x, None).flatten().tolist() == [10.0, 20.0, 30.0, 40.0]


def test_a_network_whose_layers_change_the_states_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="UNet has no stack of Transformer blocks to read in depth"):
        depth_of(UNet(1, 8, 8), lambda other, x: other(T, x))


def test_a_network_of_another_integrator_is_read_as_the_fields_that_it_integrates() -> None:
    network = TokenTransformer(
        VOCABULARY, **SIZES, time_conditioned=False, integrator=functools.partial(RungeKutta, stepper=Heun())
    )
    stirred(network)
    depth = depth_of(network, lambda other, x: other(None, x))
    with torch.no_grad():
        start = depth.start(network, tokens())
        field = depth.field(network, tokens()[:1])
        for layer, block in enumerate(network.trunk.stack):
            own = block.branches(None).field(start)
            assert torch.allclose(field(torch.tensor(layer + 0.5), start, None), own, atol=1e-6)
