"""Maximum likelihood: the loss is what it says, and training lowers it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.datasets.points import TwoMoons
from isocline.networks.concat_squash import ConcatSquashMLP
from isocline.networks.normalizing_flow import CouplingFlow, Encoded
from isocline.objectives.continuous_flow import ContinuousFlow
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood, MaximumLikelihood


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Scale(nn.Module):
    """z = x / s."""

    def forward(self, x):
        return Encoded(x / 2.0, torch.full((len(x),), -x.shape[1] * math.log(2.0)))


def test_the_loss_of_an_invertible_network_is_the_negative_log_density() -> None:
    x = torch.randn(9, 3, generator=draws())
    expected = -torch.distributions.Normal(0.0, 2.0).log_prob(x).sum(1).mean()
    loss = MaximumLikelihood()(Scale(), Batch(x), draws())
    torch.testing.assert_close(loss.total.float(), expected)
    assert set(loss.terms) == {"nats"}


def test_the_regularisers_enter_with_their_weights() -> None:
    torch.manual_seed(0)
    field, x = ConcatSquashMLP(2, 8), torch.randn(16, 2, generator=draws())
    flow = ContinuousFlow.on_grid(2)
    loss = ContinuousMaximumLikelihood(flow, kinetic=0.3, jacobian=0.7)(field, Batch(x), draws())
    terms = loss.terms
    expected = terms["nats"] + 0.3 * terms["kinetic"] + 0.7 * terms["jacobian"]
    torch.testing.assert_close(loss.total.detach(), expected)
    assert terms["kinetic"] > 0 < terms["jacobian"]
    assert terms["nfe"] == 8
    plain = ContinuousMaximumLikelihood(flow)(field, Batch(x), draws())
    torch.testing.assert_close(plain.total.detach(), terms["nats"])
    with pytest.raises(ValueError, match="jacobian"):
        ContinuousMaximumLikelihood(flow, jacobian=-1.0)


def trained(network: nn.Module, objective, steps: int, lr: float) -> tuple[float, float]:
    """Negative log-likelihood of held-out moons before and after training."""
    data = TwoMoons(1500)
    x = data.load(draws())
    x = data.fit(x)(x).float()
    train, test = x[:1000], x[1000:]
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)

    def held_out() -> float:
        with torch.no_grad():
            return float(objective(network, Batch(test), draws(2)).terms["nats"])

    before = held_out()
    for step in range(steps):
        rows = torch.randint(1000, (128,), generator=draws(step))
        optimizer.zero_grad()
        objective(network, Batch(train[rows]), draws(step)).total.backward()
        optimizer.step()
    return before, held_out()


def test_training_a_coupling_flow_finds_structure_beyond_the_best_gaussian() -> None:
    torch.manual_seed(0)
    before, after = trained(CouplingFlow(2, layers=4, width=32), MaximumLikelihood(), 150, 5e-3)
    # Standardised moons with correlation ρ: the best Gaussian has 1 + ln 2π + ln(1 − ρ²)/2, above 2.7 nats.
    assert after < 2.4
    assert after < before - 0.2


def test_training_a_continuous_flow_finds_structure_beyond_the_best_gaussian() -> None:
    torch.manual_seed(0)
    objective = ContinuousMaximumLikelihood(ContinuousFlow.on_grid(3))
    before, after = trained(ConcatSquashMLP(2, 32), objective, 60, 1.5e-2)
    assert after < 2.6
    assert after < before - 0.2
