"""Stability of depth against known answers: layers that are a matrix, layers that do nothing."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from isocline.dynamics.depth_stability import depth_stability, perturbation_growth, rounding_error
from isocline.networks.depth.continuous import Continuous
from isocline.networks.depth.runge_kutta import RungeKutta
from isocline.networks.transformer import TokenTransformer
from isocline.solvers import explicit
from isocline.solvers.controller import PIDController
from isocline.solvers.gradient import DiscreteAdjoint


def linear_network(matrix, integrator=None):
    """A network whose first layer is F(x) = A x, and whose second, if it has one, is F(x) = A x / 2."""
    torch.manual_seed(0)
    network = TokenTransformer(7, 5, 4, 2, 2, causal=True, time_conditioned=False, integrator=integrator)
    with torch.no_grad():
        for number, block in enumerate(network.trunk.blocks):
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.attention.out.bias)
            block.norm2 = nn.Identity()
            block.mlp = nn.Linear(4, 4, bias=False)
            block.mlp.weight.copy_(matrix / (1 + number))
    return network.eval()


def tokens():
    return torch.randint(0, 6, (3, 5), generator=torch.Generator().manual_seed(0))


def matrix():
    return torch.tensor(
        [[0.3, -0.8, 0.0, 0.0], [0.8, 0.3, 0.0, 0.0], [0.0, 0.0, -0.9, 0.4], [0.0, 0.0, 0.0, 0.1]], dtype=torch.float64
    )


ADAPTIVE = functools.partial(
    Continuous, stepper=explicit.Dopri5(), controller=PIDController(1e-7, 1e-7), gradient=DiscreteAdjoint()
)


@pytest.mark.parametrize(
    ("integrator", "layer"),
    [
        (None, lambda a: torch.eye(4).double() + a),
        (functools.partial(RungeKutta, stepper=explicit.Heun()), lambda a: torch.eye(4).double() + a + a @ a / 2),
        (ADAPTIVE, torch.linalg.matrix_exp),
    ],
)
def test_a_linear_stack_has_the_spectrum_of_its_matrix_and_the_gain_of_its_product(integrator, layer):
    a = matrix()
    found = depth_stability(linear_network(a, integrator), tokens(), iterations=40, krylov_steps=4, seed=0)
    assert found.lipschitz == pytest.approx(float(torch.linalg.matrix_norm(a, 2)), rel=1e-4)
    assert found.abscissa == pytest.approx(float(torch.linalg.eigvals(a).real.max()), rel=1e-4)
    whole = layer(a if integrator is ADAPTIVE else a / 2) @ layer(a)
    assert found.map_gain == pytest.approx(float(torch.linalg.matrix_norm(whole, 2)), rel=1e-4)
    assert len(found.growth) == 3


def test_layers_that_do_nothing_neither_damp_nor_amplify():
    network = linear_network(torch.zeros(4, 4)).double()
    growth, logits = perturbation_growth(network, tokens(), torch.Generator().manual_seed(0))
    assert growth == pytest.approx((1.0, 1.0, 1.0), rel=1e-6)
    assert logits > 0
    found = depth_stability(network.float(), tokens(), iterations=5, krylov_steps=4, seed=0)
    assert found.lipschitz == found.abscissa == 0
    assert found.map_gain == pytest.approx(1.0)


def test_a_multiple_of_the_identity_keeps_relative_changes_as_they_are():
    network = linear_network(0.7 * torch.eye(4)).double()
    growth, _ = perturbation_growth(network, tokens(), torch.Generator().manual_seed(0))
    assert growth == pytest.approx((1.0, 1.0, 1.0), rel=1e-4)


def test_rounding_is_of_the_order_of_float32():
    network = linear_network(matrix())
    assert 1e-8 < rounding_error(network, tokens()) < 1e-5
    assert network.embed.weight.dtype == torch.float32
