"""Step sizes are constants to every gradient: the controller is not differentiated."""

import pytest
import torch

from isocline.solvers import Dopri5, FixedGrid, ODEProblem, PIDController, SaveAt, solve
from isocline.solvers.gradient import Backpropagation, CheckpointedAdjoint, DiscreteAdjoint

F64 = torch.float64
METHODS = [None, Backpropagation(), DiscreteAdjoint(), CheckpointedAdjoint()]


def gradients(controller, method, saveat=None):
    """Of Lotka and Volterra's equation over a period and a half, by start and rates; and the times saved."""
    y0 = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    rates = torch.tensor([1.5, 1.0, 3.0, 1.0], dtype=F64, requires_grad=True)

    def field(t, y, cond):
        u, v = y.unbind(1)
        return torch.stack([rates[0] * u - rates[1] * u * v, rates[3] * u * v - rates[2] * v], 1)

    solution = solve(ODEProblem(field, y0, 0.0, 5.0), Dopri5(), controller, saveat or SaveAt(), gradient=method)
    return torch.autograd.grad(solution.final.sum(), [y0, rates]), solution.ts


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_an_adaptive_solve_is_that_of_the_grid_it_chose(method):
    found, ts = gradients(PIDController(1e-3, 1e-3, joint=True), method, SaveAt(steps=True))
    wanted, _ = gradients(FixedGrid(ts), Backpropagation())
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-10)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_error_of_the_gradient_falls_with_the_tolerance(method, joint):
    """In proportion to it, up to a factor of five."""
    exact, _ = gradients(PIDController(1e-11, 1e-11, joint=True), Backpropagation())
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        found, _ = gradients(PIDController(tolerance, tolerance, joint=joint), method)
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20
