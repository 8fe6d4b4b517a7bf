"""A low-rank adapter: what it computes, what is trained, and a state in which the network keeps its names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isocline.networks.adapter import ADAPTER, Adapted, adapted
from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.mlp import MLP
from isocline.networks.transformer import PatchTransformer
from isocline.networks.unet import UNet

T, X = torch.tensor([0.2, 0.9]), torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)


def unet(end_time=False):
    torch.manual_seed(0)
    network = UNet(1, 8, 8, (1, 2), end_time=end_time)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def moved(network):
    """An adapter as if trained."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return network


@pytest.mark.parametrize(
    "network", [unet(), PatchTransformer(channels=1, size=8, patch=4, width=8, depth=1, heads=2)], ids=["unet", "patch"]
)
def test_an_adapted_network_starts_as_the_network(network):
    before = network(T, X)
    assert torch.equal(Adapted(network, rank=2)(T, X), before)


def test_a_linear_layer_has_the_product_added_to_its_weight():
    network = MLP(2, width=8, depth=1).double()
    plain = copy.deepcopy(network)
    made = moved(Adapted(network, rank=3, alpha=6.0, targets=["layers.2"]))
    state = made.adapter()
    a, b = (state[f"adapter.layers.2.lora_{letter}.weight"] for letter in "AB")
    assert (a.shape, b.shape) == ((3, 8), (2, 3))
    with torch.no_grad():
        plain.layers[2].weight += 6.0 / 3 * b @ a
    t, x = torch.rand(5, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(made(t, x), plain(t, x), rtol=0, atol=1e-12)


def test_a_convolution_has_the_composed_kernel_added_to_its_own():
    network, plain = unet().double(), unet().double()
    made = moved(Adapted(network, rank=2, targets=["first", "shrink.0"]))
    state = made.adapter()
    assert set(made.layers) == {"first", "shrink.0"}
    with torch.no_grad():
        for name in made.layers:
            a, b = (state[f"adapter.{name}.lora_{letter}.weight"] for letter in "AB")
            plain.get_submodule(name).weight += torch.einsum("or,rihw->oihw", b[..., 0, 0], a)
    torch.testing.assert_close(made(T, X.double()), plain(T, X.double()), rtol=0, atol=1e-12)


def test_only_the_adapter_is_ever_trained():
    made = Adapted(unet(), rank=2).requires_grad_(True).train()
    base = {name: tensor.clone() for name, tensor in made.base().items()}
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(T, X).square().mean().backward()
        optimizer.step()
    assert sum(p.numel() for p in trained) == sum(tensor.numel() for tensor in made.adapter().values())
    assert all(torch.equal(made.base()[name], tensor) for name, tensor in base.items())
    assert any(bool(tensor.any()) for name, tensor in made.adapter().items() if "lora_B" in name)
    assert not any(parameter.requires_grad for parameter in made.requires_grad_(False).parameters())


def test_the_network_keeps_its_names_so_that_its_weights_load_as_they_are():
    torch.manual_seed(1)
    weights = unet().state_dict()
    made = moved(Adapted(UNet(1, 8, 8, (1, 2)), rank=2))
    assert set(made.base()) == set(weights)
    assert all(name.startswith(ADAPTER) for name in set(made.state_dict()) - set(weights))
    adapter = made.adapter()
    result = made.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert all(torch.equal(made.base()[name], tensor) for name, tensor in weights.items())
    assert all(torch.equal(made.adapter()[name], tensor) for name, tensor in adapter.items())


def test_the_state_goes_around_within_another_module_and_in_an_average():
    made = moved(Adapted(unet(), rank=2))
    holder = nn.ModuleDict({"network": made, "average": ExponentialMovingAverage(made)})
    other = moved(Adapted(unet(), rank=2))
    again = nn.ModuleDict({"network": other, "average": ExponentialMovingAverage(other)})
    again.load_state_dict(holder.state_dict())
    assert torch.equal(again["network"](T, X), made(T, X))
    assert torch.equal(again["average"].network(T, X), made(T, X))


def test_the_average_follows_the_adapter_and_leaves_the_network_to_the_bit():
    made = Adapted(unet(), rank=2)
    average = ExponentialMovingAverage(made, decay=0.5, warmup=False)
    moved(made)
    average.update(made)
    assert all(torch.equal(average.network.base()[name], tensor) for name, tensor in made.base().items())
    for name, tensor in made.adapter().items():
        if "lora_B" in name:  # it began at zero
            torch.testing.assert_close(average.network.adapter()[name], tensor / 2)


def test_the_tangent_in_time_equals_finite_differences():
    made = moved(Adapted(MLP(2, width=8, depth=2).double(), rank=2))
    t, x = torch.full((3,), 0.4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda t: made(t, x), (t,), (torch.ones_like(t),))
    step = 1e-6
    torch.testing.assert_close(tangent, (made(t + step, x) - made(t - step, x)) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_network_of_two_times_stays_one():
    made = moved(Adapted(unet(end_time=True), rank=2))
    assert made.takes_end
    assert not torch.equal(made(T, X, None, T), made(T, X, None, 0 * T))
    assert not Adapted(unet(), rank=2).takes_end


def test_sizes_stay_beside_the_adapters_in_a_configuration():
    made = adapted(MLP, rank=2, targets=["0"], dim=2, width=8, depth=1)
    assert made.layers == ("time.mlp.0", "layers.0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank = 0"),
        ({"alpha": -1.0}, "alpha = -1"),
        ({"targets": ["second"]}, "'second' is no linear or convolutional layer of UNet; it has condition"),
        ({"targets": ["norm1"]}, "'norm1' is no linear or convolutional layer"),
        ({"targets": []}, "no linear or convolutional layer to adapt"),
    ],
)
def test_what_cannot_be_adapted_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Adapted(unet(), **arguments)
