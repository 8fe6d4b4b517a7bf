"""Stochastic Runge–Kutta steps against the stochastic Taylor expansion, and the size of their error estimates."""

import itertools
import math

import pytest
import torch

from isocline.solvers import ConstantSteps, SDEProblem, solve
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.sde import Span
from isocline.solvers.srk import SRIW1, ShARK

F64 = torch.float64
NOISE = VirtualBrownianTree(1, 0.0, 1.0)
STEPS = [0.1, 0.025, 0.00625]


def increment(y, h):
    return NOISE.step(torch.tensor(0.0, dtype=F64), torch.tensor(h, dtype=F64), y, None, True)[0]


def step(stepper, drift, diffusion, h, y0):
    sde = SDEProblem(drift, diffusion, y0, 0.0, 1.0, noise=NOISE)
    span = Span(*(torch.tensor(t, dtype=F64) for t in (0.0, h, h)))
    return stepper.advance(sde, span, y0, increment(y0, h))


def orders(sizes):
    return [math.log(a / b, 4) for a, b in itertools.pairwise(sizes)]


def root_mean_square(error):
    return float(error.square().mean().sqrt())


def taylor(h, y, w, area):
    """Itô–Taylor step of strong order 3/2 for ``dy = sin(y) dt + cos(y) dw``, written out.

    Kloeden and Platen, section 10.4, with I_10 = h (w/2 + area) and I_01 = h w - I_10.
    """
    f, f1, f2 = torch.sin(y), torch.cos(y), -torch.sin(y)
    g, g1, g2 = torch.cos(y), -torch.sin(y), -torch.cos(y)
    i10 = h * (w / 2 + area)
    i01, i11, i111 = h * w - i10, (w * w - h) / 2, w * (w * w - 3 * h) / 6
    mean = f * f1 + 0.5 * g * g * f2
    return (
        y
        + f * h
        + g * w
        + g * g1 * i11
        + g * f1 * i10
        + (f * g1 + 0.5 * g * g * g2) * i01
        + g * (g * g2 + g1 * g1) * i111
        + mean * h * h / 2
    )


def test_a_step_of_sriw1_is_the_taylor_step_to_order_two():
    y0 = torch.linspace(-2, 2, 2000, dtype=F64)[:, None]
    gaps, means = [], []
    for h in STEPS:
        w, area = increment(y0, h)
        found = step(SRIW1(), lambda t, y, c: torch.sin(y), lambda t, y, c: torch.cos(y), h, y0).y1
        gaps.append(root_mean_square(found - taylor(h, y0, w, area)))
        means.append(root_mean_square(found - y0))
    # What is left is of order 2 in the mean square, a half more than what would be lost with any term.
    assert orders(gaps) == pytest.approx([2.0, 2.0], abs=0.25)
    assert orders(means) == pytest.approx([0.5, 0.5], abs=0.25)


def test_noise_alone_that_is_linear_in_time_is_integrated_exactly():
    # ∫ (1 + 3t) dw = (1 + 3h) w - 3 ∫ w dt.
    y0 = torch.zeros(50, 2, dtype=F64)
    for h in (0.5, 1.0):
        w, area = increment(y0, h)
        found = step(ShARK(), lambda t, y, c: 0 * y, lambda t, y, c: 1 + 3 * t, h, y0).y1
        assert torch.allclose(found, (1 + 3 * h) * w - 3 * h * (w / 2 + area), atol=1e-14)


def test_a_linear_drift_with_constant_noise_meets_the_exact_covariance_with_the_area():
    # dy = -y dt + dw over h: ∫ e^(s-h) dw = w - h (w/2 + area) + O(h^2) in the mean square, and ShARK has these terms.
    y0 = torch.zeros(2000, 1, dtype=F64)
    gaps = []
    for h in STEPS:
        w, area = increment(y0, h)
        found = step(ShARK(), lambda t, y, c: -y, lambda t, y, c: torch.ones((), dtype=F64), h, y0).y1
        gaps.append(root_mean_square(found - (w - h * (w / 2 + area))))
    assert orders(gaps) == pytest.approx([2.5, 2.5], abs=0.25)


@pytest.mark.parametrize("stepper", [SRIW1(), ShARK()])
def test_error_estimates_have_order_three_halves(stepper):
    y0 = torch.linspace(-2, 2, 1000, dtype=F64)[:, None]
    sizes = []
    for h in STEPS:
        found = step(stepper, lambda t, y, c: torch.sin(y), lambda t, y, c: 1 + t + 0.5 * t * t, h, y0)
        sizes.append(root_mean_square(found.error))
    assert orders(sizes) == pytest.approx([1.5, 1.5], abs=0.2)


@pytest.mark.parametrize("stepper", [SRIW1(), ShARK()])
def test_a_step_costs_two_evaluations_of_the_drift(stepper):
    calls = []

    def drift(t, y, c):
        calls.append(t)
        return -y

    sde = SDEProblem(drift, lambda t, y, c: torch.ones((), dtype=F64), torch.ones(3, 2), 0.0, 1.0, noise=NOISE)
    assert solve(sde, stepper, ConstantSteps(7)).stats.nfe.tolist() == [14] * 3
    assert len(calls) == 14


@pytest.mark.parametrize(
    ("stepper", "drifts", "diffusions"), [(SRIW1(), [0, 0.75], [0, 0.25, 1, 0.25]), (ShARK(), [0, 5 / 6], [0, 1])]
)
def test_stages_are_at_the_nodes_of_the_published_tables(stepper, drifts, diffusions):
    seen = [], []

    def drift(t, y, c):
        seen[0].append(float(t))
        return -y

    def diffusion(t, y, c):
        seen[1].append(float(t))
        return torch.ones((), dtype=F64)

    step(stepper, drift, diffusion, 0.4, torch.ones(2, 1, dtype=F64))
    assert seen[0] == pytest.approx([0.4 * c for c in drifts])
    assert seen[1] == pytest.approx([0.4 * c for c in diffusions])


@pytest.mark.parametrize("stepper", [SRIW1(), ShARK()])
def test_an_empty_step_stays_where_it_is(stepper):
    # Samples that are done take empty steps while others go on.
    y0 = torch.rand(4, 2, dtype=F64)
    t0 = torch.tensor([0.0, 0.5, 0.0, 1.0], dtype=F64)
    sde = SDEProblem(
        lambda t, y, c: torch.sin(y),
        lambda t, y, c: torch.ones((), dtype=F64),
        y0,
        t0,
        torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=F64),
        noise=NOISE,
    )
    final = solve(sde, stepper, ConstantSteps(3)).final
    assert torch.equal(final[1:3], y0[1:3])
    assert bool((final[[0, 3]] != y0[[0, 3]]).all())
