"""Noise leaves a position along the path of the kernel, with the fewest jumps."""

import pytest
import torch
from tests.samplers.moving_noise import MovingNoiseKernel

from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.samplers.noise_clock import FixedNoiseClock, MovingNoiseClock, noise_clock, settle
from isocline.samplers.token_steppers import MixtureLeap
from isocline.solvers.problem import MarkovProblem

KERNELS = [
    AbsorbingKernel(4, CosineSurvival()),
    UniformKernel(4, LinearSurvival()),
    MovingNoiseKernel(4),
    HybridKernel(4, 0.3),
]
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=["absorbing", "uniform", "moving", "hybrid"])


def rates(kernel, t, x):
    """Conditional generating rates given the clean token, ``(V, V)``, from the clock's definition."""
    gain = -kernel.noise_rate(t)
    weights = gain.clamp(min=0)
    weights[x] = gain[x] - kernel.schedule.da(t)
    hazard = torch.where(kernel.noise(t) > 0, kernel.noise_rate(t) / kernel.noise(t), 0.0).clamp(min=0)
    rate = hazard[:, None] * weights / weights.sum()
    rate[x] = 0.0
    return rate - torch.diag(rate.sum(1))


@kernels
@pytest.mark.parametrize("time", [0.2, 0.5, 0.9])
def test_the_rates_carry_the_path_of_the_kernel(kernel, time):
    t, step = torch.tensor(time).double(), 1e-5
    for x in range(3):
        q = [kernel.marginal(torch.tensor([[x]]), t + h)[0, 0] for h in (-step, 0.0, step)]
        torch.testing.assert_close(q[1] @ rates(kernel, t, x), (q[0] - q[2]) / (2 * step), atol=1e-8, rtol=1e-7)


@kernels
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.6), (0.8, 0.3), (0.4, 0.1), (0.3, 0.0)])
def test_a_leap_given_the_clean_token_lands_on_the_marginal(kernel, start, end):
    t, s, count = torch.tensor(start).double(), torch.tensor(end).double(), 100_000
    clean = torch.tensor([[0, 1, 2]]).expand(count, -1)
    generator = torch.Generator().manual_seed(0)
    known = torch.nn.functional.one_hot(clean, 4).double()
    z = kernel.sample(clean, t, generator)
    problem = MarkovProblem(lambda time, state, cond: known, z, start, end, generator=generator)
    moved = MixtureLeap(kernel).step(problem, t, s, z, None).y1
    found = torch.nn.functional.one_hot(moved, 4).double().mean(0)
    torch.testing.assert_close(found, kernel.marginal(clean[:1], s)[0], atol=0.006, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS[:2], ids=["absorbing", "uniform"])
def test_bisection_agrees_with_the_closed_form(kernel):
    z = torch.tensor([[0, 3, 3], [3, 3, 3]]) if isinstance(kernel, AbsorbingKernel) else torch.tensor([[0, 1, 1]])
    t, amount = torch.full((len(z),), 0.7).double(), torch.full((len(z),), 1.3).double()
    fixed, moving = FixedNoiseClock(kernel), MovingNoiseClock(kernel)
    torch.testing.assert_close(moving.after(t, z, amount), fixed.after(t, z, amount), atol=1e-13, rtol=1e-12)


def test_a_clock_stands_still_where_noise_grows():
    clock = noise_clock(KERNELS[2])
    torch.testing.assert_close(clock.peak, torch.tensor([0.5, 0.5, 0.5, 1.0]).double(), atol=1e-7, rtol=0)
    t = torch.tensor([0.9, 0.4]).double()
    z = torch.tensor([[0, 1], [0, 1]])
    found = clock.after(t, z, torch.full((2,), 0.2).double())
    # Two clocks ln n run from the peak, or from now; e^-0.1 of the mass t (1 − t) is left at the candidate.
    mass = torch.tensor([0.25, 0.24]).double() * torch.exp(torch.tensor(-0.1).double())
    torch.testing.assert_close(found * (1 - found), mass)
    assert clock.hazard(t, z)[0].sum() == 0


def test_a_clean_token_is_never_left():
    z, clean = torch.tensor([0, 1]), torch.tensor([0, 0])
    rise, gain = torch.tensor([0.1, 0.1]).double(), torch.tensor([[-0.05, -0.2, 0.3, 0.0]]).double().expand(2, -1)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([settle(z, clean, rise, gain, generator) for _ in range(2000)])
    assert (draws[:, 0] == 0).all()
    shares = torch.stack([(draws[:, 1] == y).double().mean() for y in range(4)])
    torch.testing.assert_close(shares, torch.tensor([1 / 7, 0, 6 / 7, 0]).double(), atol=0.03, rtol=0)
