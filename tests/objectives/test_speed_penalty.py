"""The speed penalty against closed forms: its derivatives, its integral, its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.concat_squash import ConcatSquashMLP
from isocline.objectives.continuous_flow import ContinuousFlow
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood
from isocline.objectives.speed_penalty import SpeedPenalty, total_derivative

D = torch.float64


class Growth(nn.Module):
    """dx/dt = a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=D))

    def forward(self, t, x, cond=None):
        return self.a * x


def penalised(order: int, weight: float = 0.5) -> tuple[ContinuousMaximumLikelihood, SpeedPenalty]:
    flow = ContinuousFlow.on_grid(16)
    plain = ContinuousMaximumLikelihood(flow)
    return plain, SpeedPenalty(plain, weight, order, flow)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_total_derivatives_are_those_of_a_known_path(order: int) -> None:
    # dx/dt = 2 t x has x = c e^{t²}; its derivatives are Hermite-like polynomials times x.
    t, x = torch.tensor(0.3, dtype=D), torch.tensor([[1.5, -2.0]], dtype=D)
    polynomial = [2 * t, 2 + 4 * t**2, 12 * t + 8 * t**3, 12 + 48 * t**2 + 16 * t**4][order - 1]
    torch.testing.assert_close(total_derivative(lambda t, x: 2 * t * x, order)(t, x), polynomial * x)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_integral_and_its_gradient_are_those_of_exponential_growth(order: int) -> None:
    x = torch.tensor([[1.0, 2.0], [-0.5, 0.3]], dtype=D)
    plain, objective = penalised(order)
    network = Growth(0.7)
    a = torch.tensor(0.7, dtype=D, requires_grad=True)
    expected = a ** (2 * order) * x.square().mean() * ((2 * a).exp() - 1) / (2 * a)
    (slope,) = torch.autograd.grad(expected, a)
    generator = torch.Generator()
    loss = objective(network, Batch(x), generator)
    torch.testing.assert_close(loss.terms["speed"], expected.detach(), rtol=1e-6, atol=0)
    base = plain(network, Batch(x), generator)
    torch.testing.assert_close(loss.total - base.total, 0.5 * loss.terms["speed"])
    found, without = (torch.autograd.grad(part.total, network.a)[0] for part in (loss, base))
    torch.testing.assert_close(found - without, 0.5 * slope, rtol=1e-5, atol=0)


def test_a_network_s_penalty_has_gradients_for_all_its_weights() -> None:
    torch.manual_seed(0)
    field, x = ConcatSquashMLP(2, 8), torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    _, objective = penalised(2)
    objective(field, Batch(x), torch.Generator()).total.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in field.parameters())


def test_bad_weights_and_orders_are_named() -> None:
    with pytest.raises(ValueError, match="order = 0"):
        penalised(0)
    with pytest.raises(ValueError, match="weight = -1"):
        penalised(2, -1.0)
    with pytest.raises(ValueError, match="order = 0"):
        total_derivative(lambda t, x: x, 0)
