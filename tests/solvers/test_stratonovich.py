"""Heun's methods for Stratonovich equations against their formulas, and the size of their error estimate."""

import itertools
import math

import pytest
import torch

from isocline.solvers import ConstantSteps, SDEProblem, solve
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.problem import Calculus
from isocline.solvers.sde import Span
from isocline.solvers.stratonovich import EulerHeun, StratonovichHeun

F64 = torch.float64
NOISE = VirtualBrownianTree(1, 0.0, 1.0)


def drift(t, y, c):
    return torch.cos(y) + t


def diffusion(t, y, c):
    return torch.sin(y) + t


def problem(h, drift=drift):
    y0 = torch.rand(500, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    return SDEProblem(drift, diffusion, y0, 0.0, h, noise=NOISE, calculus=Calculus.STRATONOVICH)


def increment(y, h):
    return NOISE.step(torch.tensor(0.0, dtype=F64), torch.tensor(h, dtype=F64), y, None, False)[0]


def test_one_step_of_heun_is_the_trapezoid_along_the_path():
    sde, h = problem(0.1), 0.1
    y, w = sde.y0, increment(sde.y0, h).w
    guess = y + torch.cos(y) * h + torch.sin(y) * w
    wanted = y + (torch.cos(y) + torch.cos(guess) + h) * h / 2 + (torch.sin(y) + torch.sin(guess) + h) * w / 2
    found = solve(sde, StratonovichHeun(), ConstantSteps(1))
    assert torch.allclose(found.final, wanted, atol=1e-14)
    assert found.stats.nfe.unique().tolist() == [2]


def test_one_step_of_euler_heun_corrects_the_noise_only():
    sde, h = problem(0.1), 0.1
    y, w = sde.y0, increment(sde.y0, h).w
    wanted = y + torch.cos(y) * h + (torch.sin(y) + torch.sin(y + torch.sin(y) * w) + h) * w / 2
    found = solve(sde, EulerHeun(), ConstantSteps(1))
    assert torch.allclose(found.final, wanted, atol=1e-14)
    assert found.stats.nfe.unique().tolist() == [1]


@pytest.mark.parametrize("drift", [drift, lambda t, y, c: torch.zeros_like(y)], ids=["with drift", "noise alone"])
def test_the_error_estimate_has_order_three_halves(drift):
    sizes, steps = [], [0.1, 0.025, 0.00625]
    for h in steps:
        sde = problem(h, drift)
        span = Span(torch.tensor(0.0, dtype=F64), torch.tensor(h, dtype=F64), torch.tensor(h, dtype=F64))
        error = StratonovichHeun().advance(sde, span, sde.y0, increment(sde.y0, h)).error
        sizes.append(float(error.square().mean().sqrt()))
    orders = [math.log(a / b, 4) for a, b in itertools.pairwise(sizes)]
    assert orders == pytest.approx([1.5, 1.5], abs=0.2)
