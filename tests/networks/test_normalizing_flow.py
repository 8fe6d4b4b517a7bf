"""Discrete flows: they invert, their determinants are autograd's, and their densities integrate to one."""

from __future__ import annotations

import pytest
import torch

from isocline.networks.normalizing_flow import AutoregressiveFlow, CouplingFlow, GlowFlow, SplineFlow
from isocline.networks.residual_flow import LipschitzLinear, ResidualFlow
from isocline.objectives.continuous_flow import standard_normal

D = torch.float64
FLOWS = {
    "coupling": lambda dim: CouplingFlow(dim, layers=3, width=16),
    "autoregressive": lambda dim: AutoregressiveFlow(dim, layers=2, width=16),
    "spline": lambda dim: SplineFlow(dim, layers=2, width=16),
    "glow": lambda dim: GlowFlow(dim, layers=3, width=16),
    "residual": lambda dim: ResidualFlow(dim, layers=4, width=16, tolerance=1e-12),
}


@pytest.fixture(params=FLOWS)
def flow(request):
    """A flow of three dimensions whose weights are no longer near the identity."""
    return make(request.param, 3)


def make(name: str, dim: int, scale: float = 1.5):
    torch.manual_seed(1)
    network = FLOWS[name](dim).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale).add_(0.05 * torch.randn_like(parameter))
    return network.requires_grad_(False)


def points(dim: int = 3) -> torch.Tensor:
    return torch.randn(20, dim, dtype=D, generator=torch.Generator().manual_seed(0))


def test_decoding_undoes_encoding(flow) -> None:
    encoded = flow(points())
    assert (encoded.z - points()).abs().max() > 0.1
    torch.testing.assert_close(flow.decode(encoded.z), points(), atol=1e-6, rtol=0)


def test_the_log_determinant_is_that_of_autograds_jacobian(flow) -> None:
    x = points()
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda row: flow(row[None]).z[0], one) for one in x])
    torch.testing.assert_close(flow(x).log_det, torch.linalg.slogdet(jacobians).logabsdet, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_integrates_to_one(name: str) -> None:
    flow = make(name, 2, scale=1.0)
    side = torch.linspace(-12, 12, 481, dtype=D)
    grid = torch.cartesian_prod(side, side)
    encoded = flow(grid)
    mass = (standard_normal(encoded.z) + encoded.log_det).exp().sum() * (side[1] - side[0]) ** 2
    assert float(mass) == pytest.approx(1.0, abs=0.01)


def test_a_linear_map_never_exceeds_its_bound_in_evaluation() -> None:
    torch.manual_seed(0)
    linear = LipschitzLinear(6, 4, bound=0.9)
    with torch.no_grad():
        linear.linear.weight.mul_(50)
    linear.eval()
    assert float(torch.linalg.matrix_norm(linear.weight().detach(), 2)) == pytest.approx(0.9, rel=1e-5)
    with torch.no_grad():
        linear.linear.weight.mul_(1e-3)
    torch.testing.assert_close(linear.weight(), linear.linear.weight)


def test_power_iteration_finds_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    linear = LipschitzLinear(6, 4, bound=0.9)
    with torch.no_grad():
        linear.linear.weight.mul_(5)
    for _ in range(100):
        weight = linear.weight()
    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(0.9, rel=1e-4)


def test_an_inverse_that_does_not_settle_is_an_error() -> None:
    torch.manual_seed(0)
    flow = ResidualFlow(2, layers=1, tolerance=0.0, iterations=2).eval()
    with pytest.raises(RuntimeError, match="raise iterations"):
        flow.decode(points(2).float())


@pytest.mark.parametrize("kind", [CouplingFlow, AutoregressiveFlow, SplineFlow, GlowFlow, ResidualFlow])
def test_sizes_out_of_range_are_refused(kind) -> None:
    with pytest.raises(ValueError, match="dim = 1"):
        kind(1)
    with pytest.raises(ValueError, match="layers = 0"):
        kind(2, layers=0)


def test_a_bound_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bound = 1\.0"):
        ResidualFlow(2, bound=1.0)


@pytest.mark.parametrize("width", [2, 4])
def test_states_of_another_width_are_refused(flow, width: int) -> None:
    for carry in (flow, flow.decode):
        with pytest.raises(ValueError, match=rf"dim = 3 was given shape \(20, {width}\)"):
            carry(points(width))
