"""Milstein's step against its formula, and the derivative of the noise against autograd."""

import math

import pytest
import torch

from isocline.solvers import ConstantSteps, SDEProblem, solve
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.milstein import DerivativeFreeMilstein, Milstein
from isocline.solvers.problem import Calculus
from isocline.solvers.sde import noise_derivative

F64 = torch.float64
NOISE = VirtualBrownianTree(1, 0.0, 1.0)


def increment(y, h):
    return NOISE.step(torch.tensor(0.0, dtype=F64), torch.tensor(h, dtype=F64), y, None, False)[0].w


def problem(diffusion, h, calculus=Calculus.ITO, noise=NOISE):
    y0 = torch.rand(500, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) + 0.5
    return SDEProblem(lambda t, y, c: torch.cos(y), diffusion, y0, 0.0, h, noise=noise, calculus=calculus)


def test_one_step_is_the_formula():
    h = 0.1
    for calculus, minus in ((Calculus.ITO, h), (Calculus.STRATONOVICH, 0.0)):
        sde = problem(lambda t, y, c: y * y, h, calculus)
        y, w = sde.y0, increment(sde.y0, h)
        wanted = y + torch.cos(y) * h + y**2 * w + y**2 * (2 * y) * (w**2 - minus) / 2
        found = solve(sde, Milstein(), ConstantSteps(1))
        assert torch.allclose(found.final, wanted, atol=1e-14)
        assert found.stats.nfe.tolist() == [1] * 500


def test_the_quotient_approaches_the_derivative_with_the_step():
    gaps = []
    for h in (1e-2, 1e-4):
        sde = problem(lambda t, y, c: torch.sin(y), h)
        ends = [solve(sde, stepper, ConstantSteps(1)).final for stepper in (Milstein(), DerivativeFreeMilstein())]
        gaps.append(float((ends[0] - ends[1]).square().mean().sqrt()))
    # The steps differ by O(h^(3/2)): a thousandth for a hundredth of the step.
    assert gaps[1] / gaps[0] == pytest.approx(1e-3, rel=0.2)
    assert gaps[0] > 1e-6


def test_a_diffusion_without_forward_mode_is_for_the_quotient():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return torch.from_numpy(y.detach().numpy() ** 2)

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError

    sde = problem(lambda t, y, c: Opaque.apply(y), 0.01)
    with pytest.raises(RuntimeError):
        solve(sde, Milstein(), ConstantSteps(1))
    assert bool(solve(sde, DerivativeFreeMilstein(), ConstantSteps(1)).final.isfinite().all())


@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (4, 2, 5)])
def test_the_derivative_of_the_noise_is_that_of_autograd(shape):
    y = torch.rand(shape, dtype=F64, requires_grad=True)
    cond = torch.rand(4, *[1] * (len(shape) - 1), dtype=F64)

    def diffusion(t, state, c):
        return t * torch.exp(-c * state * state)

    g, product = noise_derivative(diffusion, torch.tensor(0.7, dtype=F64), y, cond)
    value = diffusion(torch.tensor(0.7, dtype=F64), y, cond)
    (slope,) = torch.autograd.grad(value.sum(), y)
    assert torch.allclose(g, value)
    assert torch.allclose(product, value * slope, atol=1e-14)


def test_operations_without_a_rule_for_dual_numbers_are_differentiated_all_the_same():
    y = torch.rand(4, 3, dtype=F64)
    seen = []

    def diffusion(t, state, c):
        seen.append(type(state).__name__)
        return torch.special.i0(state)

    g, product = noise_derivative(diffusion, torch.tensor(0.0, dtype=F64), y, None)
    assert seen[0] == "Dual"
    assert seen[-1] == "Tensor"
    assert torch.allclose(g, torch.special.i0(y))
    assert torch.allclose(product, torch.special.i0(y) * torch.special.i1(y))


def test_gradients_pass_through_the_derivative_of_the_noise():
    def product(y):
        return noise_derivative(lambda t, state, c: torch.sin(state * state), torch.tensor(0.0), y, None)[1]

    assert torch.autograd.gradcheck(product, torch.rand(2, 3, dtype=F64, requires_grad=True))


@pytest.mark.parametrize("g", [torch.tensor(0.3, dtype=F64), torch.tensor([0.1, 0.4], dtype=F64)])
def test_noise_that_does_not_depend_on_the_state_has_no_derivative(g):
    value, product = noise_derivative(lambda t, y, c: g, torch.tensor(0.0, dtype=F64), torch.ones(5, 2), None)
    assert value.shape == product.shape == (5, 2)
    assert value.dtype == torch.float32
    assert not product.any()


def test_the_strong_error_is_far_below_that_of_the_step_without_the_correction():
    # Per step, geometric Brownian motion's local error is O(h^(3/2)); without the double integral it is O(h).
    y0, h = torch.ones(2000, 1, dtype=F64), 0.01
    sde = SDEProblem(lambda t, y, c: 0 * y, lambda t, y, c: y, y0, 0.0, h, noise=NOISE)
    w = increment(y0, h)
    exact = torch.exp(w - h / 2)
    error = float((solve(sde, Milstein(), ConstantSteps(1)).final - exact).square().mean().sqrt())
    # The leading term is the triple integral (w³ - 3hw)/6, of variance h³/6.
    assert error == pytest.approx(math.sqrt(h**3 / 6), rel=0.1)
