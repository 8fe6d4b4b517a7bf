"""U-Net and MLP fields, and the average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.mlp import MLP
from isocline.networks.unet import UNet


def test_a_unet_returns_a_field_of_the_images_shape_and_starts_at_zero() -> None:
    network = UNet(3, 16, width=8, multipliers=(1, 2))
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(network(torch.rand(2), x), torch.zeros_like(x))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert network(torch.tensor(0.5), x).shape == x.shape
    assert not torch.allclose(network(torch.tensor(0.1), x), network(torch.tensor(0.9), x))


def test_a_unet_that_cannot_halve_says_so() -> None:
    with pytest.raises(ValueError, match="size = 30"):
        UNet(1, 30, width=8, multipliers=(1, 2, 2))


def test_an_mlp_field_takes_scalar_and_batched_times() -> None:
    network = MLP(2, width=16, depth=2)
    x = torch.randn(5, 2)
    assert torch.allclose(network(torch.tensor(0.2), x), network(torch.full((5,), 0.2), x), atol=1e-6)


def test_the_average_follows_its_closed_form() -> None:
    network = nn.Linear(1, 1, bias=False)
    ema = ExponentialMovingAverage(network, decay=0.9, warmup=False)
    start = network.weight.item()
    expected = start
    for value in (1.0, -2.0, 3.0):
        with torch.no_grad():
            network.weight.fill_(value)
        ema.update(network)
        expected = 0.9 * expected + 0.1 * value
    assert ema.network.weight.item() == pytest.approx(expected, rel=1e-6)


def test_warm_up_forgets_the_initialisation() -> None:
    network = nn.Linear(1, 1, bias=False)
    cold, warm = ExponentialMovingAverage(network, 0.9999, warmup=False), ExponentialMovingAverage(network, 0.9999)
    with torch.no_grad():
        network.weight.fill_(10.0)
    for _ in range(50):
        cold.update(network)
        warm.update(network)
    assert abs(warm.network.weight.item() - 10.0) < 0.1
    assert abs(cold.network.weight.item() - 10.0) > 5.0


def test_buffers_are_copied_and_the_count_survives_a_checkpoint() -> None:
    network = nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(network, 0.99)
    network(torch.randn(8, 2) + 3.0)
    for _ in range(3):
        ema.update(network)
    assert torch.equal(ema.network.running_mean, network.running_mean)
    other = ExponentialMovingAverage(network, 0.99)
    other.load_state_dict(ema.state_dict())
    with torch.no_grad():
        network.weight.mul_(2.0)
    ema.update(network)
    other.update(network)
    assert torch.equal(ema.network.weight, other.network.weight)
    assert int(other.updates) == 4


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ema\.decay = 1"):
        ExponentialMovingAverage(nn.Linear(1, 1), decay=1.0)


def test_an_average_inside_a_module_takes_up_its_count() -> None:
    network = nn.Linear(2, 2)
    fresh, used = (nn.ModuleDict({"average": ExponentialMovingAverage(network)}) for _ in range(2))
    for _ in range(50):
        used["average"].update(network)
    used.load_state_dict(fresh.state_dict())
    with torch.no_grad():
        network.weight.add_(1.0)
    fresh["average"].update(network)
    used["average"].update(network)
    assert torch.equal(used["average"].network.weight, fresh["average"].network.weight)


def test_a_negative_label_is_no_label() -> None:
    network = UNet(1, 8, 8, (1, 2), classes=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    t, x = torch.tensor([0.3, 0.6]), torch.randn(2, 1, 8, 8)
    hidden = network(t, x, torch.tensor([-1, 2]))
    torch.testing.assert_close(hidden[:1], network(t, x, None)[:1])
    assert (hidden[1] - network(t, x, None)[1]).abs().max() > 1e-3
