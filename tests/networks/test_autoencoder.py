"""The autoencoder: shapes, normalised latents, reconstruction that training improves, sizes that do not fit."""

from __future__ import annotations

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.networks.autoencoder import Autoencoder
from isocline.objectives.reconstruction import Reconstruction


def images(n: int = 64) -> torch.Tensor:
    """Smooth 8x8 pictures: two random waves."""
    draws = torch.Generator().manual_seed(0)
    phase, pull = torch.rand(n, 2, generator=draws) * 6.28, torch.rand(n, 1, 1, generator=draws)
    grid = torch.linspace(0, 3.14, 8)
    waves = (grid + phase[:, :1]).sin()[:, :, None] * (grid + phase[:, 1:]).cos()[:, None, :]
    return (pull * waves)[:, None]


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(1, 8, latent_channels=3, latent_size=2, width=8)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_latents_are_a_quarter_as_high_and_wide() -> None:
    network = autoencoder().eval()
    assert network.encode(images(5)).shape == (5, *network.latent_shape) == (5, 3, 2, 2)
    assert network(images(5)).shape == (5, 1, 8, 8)


def test_latents_of_the_data_have_mean_zero_and_variance_one_per_channel() -> None:
    network, data = autoencoder(), images()
    network.calibrate(data.split(24))  # batches of unequal sizes
    latents = network.encode(data).double()
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-3)
    one, many = network.encode(data[:1]), network.encode(data)[:1]  # the batch does not matter any more
    torch.testing.assert_close(one, many)


def test_training_reconstructs_and_noise_raises_the_loss() -> None:
    network, data = autoencoder(), images()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for step in range(150):
        loss = Reconstruction(0.05)(network, Batch(data), draws(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    with torch.no_grad():
        plain, noisy = (float(Reconstruction(v)(network, Batch(data), draws()).total) for v in (0.0, 1.0))
    assert noisy > 2 * plain
    assert plain == pytest.approx(float((network(data) - data).square().mean().detach()))


@pytest.mark.parametrize("wrong", [{"size": 10}, {"latent_size": 3}, {"width": 12}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Autoencoder(**{"channels": 1, "size": 8, **wrong})


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        Reconstruction(-0.1)
