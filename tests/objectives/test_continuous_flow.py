"""Continuous flows of linear fields are Gaussians, and their integrals are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from isocline.networks.concat_squash import ConcatSquashMLP
from isocline.objectives.continuous_flow import ContinuousFlow, joint_control
from isocline.objectives.trace import ExactTrace, HutchinsonTrace, HutchPlusPlusTrace
from isocline.solvers import RK4, ConstantSteps, Dopri5
from isocline.solvers.gradient import Backpropagation, DiscreteAdjoint

D = torch.float64
MATRIX = torch.tensor([[0.3, -0.8, 0.1], [0.5, -0.4, 0.2], [0.0, 0.3, 0.6]], dtype=D)


class Linear(nn.Module):
    """f(t, x) = A x."""

    def __init__(self, matrix: torch.Tensor = MATRIX) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())

    def forward(self, t, x, cond=None):
        return x @ self.matrix.mT


def points(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, dtype=D, generator=torch.Generator().manual_seed(0))


def tight(trace=None) -> ContinuousFlow:
    return ContinuousFlow(ExactTrace() if trace is None else trace, Dopri5(), joint_control(1e-10))


def test_a_linear_field_has_the_density_of_a_gaussian() -> None:
    # x(1) = exp(A) x is N(0, I), so x is N(0, exp(-A) exp(-A)ᵀ).
    back = torch.linalg.matrix_exp(-MATRIX)
    expected = MultivariateNormal(torch.zeros(3, dtype=D), back @ back.mT).log_prob(points())
    with torch.no_grad():
        found = tight().log_density(Linear(), points())
    torch.testing.assert_close(found.nats, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.z, points() @ torch.linalg.matrix_exp(MATRIX).mT, atol=1e-8, rtol=0)
    assert found.kind == "exact"


def test_kinetic_and_jacobian_integrals_are_those_of_the_linear_field() -> None:
    # ∫ |A e^{At} x|² dt = xᵀ M x by quadrature of the closed form; ∫ |A|² dt = |A|².
    nodes = torch.linspace(0, 1, 2001, dtype=D)
    maps = torch.stack([MATRIX @ torch.linalg.matrix_exp(t * MATRIX) for t in nodes])
    kinetic = torch.trapezoid(torch.einsum("tij,bj->tbi", maps, points()).square().sum(2), nodes, dim=0)
    with torch.no_grad():
        found = tight().log_density(Linear(), points(), path=True)
    torch.testing.assert_close(found.kinetic, kinetic, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.jacobian, MATRIX.square().sum().expand(6), atol=1e-8, rtol=0)
    with torch.no_grad():
        assert not tight().log_density(Linear(), points()).kinetic.any()


def test_decoding_undoes_encoding() -> None:
    flow, field = tight(), Linear()
    torch.testing.assert_close(flow.decode(field, flow.encode(field, points()).x).x, points(), atol=1e-8, rtol=0)


@pytest.mark.parametrize("trace", [HutchinsonTrace(), HutchPlusPlusTrace()])
def test_estimated_traces_give_the_exact_density_on_average(trace) -> None:
    x = points(1).expand(500, 3).clone()
    torch.manual_seed(0)
    field = ConcatSquashMLP(3, 8).double()
    with torch.no_grad():
        exact = ContinuousFlow.on_grid(6).log_density(field, x[:1]).nats
        flow = ContinuousFlow.on_grid(6, trace)
        found = flow.log_density(field, x, torch.Generator().manual_seed(1))
    assert found.kind == "estimate"
    assert found.nats.std() > 1e-3
    assert abs(found.nats.mean() - exact) < 4 * found.nats.std() / 500**0.5


@pytest.mark.parametrize("trace", [ExactTrace(), HutchinsonTrace(2), HutchPlusPlusTrace()])
def test_the_discrete_adjoint_and_backpropagation_give_one_gradient(trace) -> None:
    torch.manual_seed(0)
    field = ConcatSquashMLP(3, 8).double()
    gradients = []
    for method in (DiscreteAdjoint(), Backpropagation()):
        flow = ContinuousFlow(trace, RK4(), ConstantSteps(3), method)
        found = flow.log_density(field, points(), torch.Generator().manual_seed(1), path=True)
        loss = (found.nats + 0.1 * found.kinetic + 0.1 * found.jacobian).mean()
        gradients.append(torch.autograd.grad(loss, list(field.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0])


def test_the_gradient_in_the_field_is_that_of_the_gaussian() -> None:
    field = Linear()
    (found,) = torch.autograd.grad(tight().log_density(field, points()).nats.sum(), field.matrix)
    matrix = MATRIX.clone().requires_grad_()
    back = torch.linalg.matrix_exp(-matrix)
    law = MultivariateNormal(torch.zeros(3, dtype=D), back @ back.mT)
    (expected,) = torch.autograd.grad(law.log_prob(points()).sum(), matrix)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_evaluations_are_counted_by_the_solver() -> None:
    with torch.no_grad():
        assert ContinuousFlow.on_grid(5).log_density(Linear(), points()).nfe.tolist() == [20] * 6


def test_states_that_are_not_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, d\)"):
        ContinuousFlow().log_density(Linear(), torch.zeros(2, 3, 1))


def test_the_field_takes_one_time_or_one_per_sample() -> None:
    torch.manual_seed(0)
    field = ConcatSquashMLP(3, 8)
    x = points().float()
    one = field(torch.tensor(0.3, dtype=D), x)
    torch.testing.assert_close(field(torch.full((6,), 0.3, dtype=D), x), one)
    assert (field(torch.tensor(0.6, dtype=D), x) - one).abs().max() > 1e-3
    with pytest.raises(ValueError, match="width = 0"):
        ConcatSquashMLP(3, 0)


def test_inference_mode_gives_the_same_density() -> None:
    network = Linear()
    with torch.no_grad():
        wanted = tight().log_density(network, points())
    with torch.inference_mode():
        found = tight().log_density(network, points())
    assert torch.equal(found.nats, wanted.nats)
