"""Residual layers are found wherever they are, in the order in which a state passes through them."""

import pytest
import torch

from isocline.networks.classifier import ResidualClassifier
from isocline.networks.depth.splitting import Macaron
from isocline.networks.mlp import MLP
from isocline.networks.preconditioning import Preconditioned
from isocline.networks.residual_layers import residual_stacks
from isocline.networks.transformer import PatchTransformer, TokenTransformer
from isocline.networks.unet import UNet
from isocline.processes.schedule import LinearSchedule

IMAGES = (torch.rand(2), torch.randn(2, 1, 8, 8))
CASES = [
    (PatchTransformer(1, 8, 4, 8, 3, 2), IMAGES, 3, True),
    (Preconditioned(PatchTransformer(1, 8, 4, 8, 3, 2), LinearSchedule(), 0.5), IMAGES, 3, True),
    (TokenTransformer(5, 6, 8, 2, 2), (torch.rand(2), torch.randint(0, 4, (2, 6))), 2, True),
    (TokenTransformer(5, 6, 8, 2, 2, integrator=Macaron), (torch.rand(2), torch.randint(0, 4, (2, 6))), 2, True),
    (UNet(1, 8, 8, (1, 2)), IMAGES, 5, True),
    (ResidualClassifier(1, 8, 3, 8, blocks=4), (IMAGES[1],), 4, False),
]


@pytest.mark.parametrize(("network", "args", "count", "adds"), CASES)
def test_the_layers_of_a_stack_are_called_in_their_order(network, args, count, adds):
    (stack,) = residual_stacks(network)
    called = []
    for layer in stack:
        layer.module.register_forward_hook(lambda module, *_: called.append(module))
    network(*args)
    assert called == [layer.module for layer in stack]
    assert len(stack) == count
    assert all(layer.adds is adds for layer in stack)


def test_a_network_without_residual_layers_has_no_stack():
    assert residual_stacks(MLP(2)) == []
