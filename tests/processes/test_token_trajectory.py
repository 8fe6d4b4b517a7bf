"""Uniform-state diffusion is the arg-max of a Gaussian one, at one time and along trajectories."""

import pytest
import torch
from scipy.stats import chi2

from isocline.processes.decided_schedule import DecidedShareSchedule, gaussian_undecided_share
from isocline.processes.kernel import UniformKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.processes.token_trajectory import draw_trajectory

D = torch.float64


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def argmax_of(ratio, symbols, count, generator):
    """Arg-max of r e_0 + ε, ``(count,)``."""
    state = torch.randn(count, symbols, generator=generator)
    state[:, 0] += ratio
    return state.argmax(-1)


def pearson(counts, probs):
    expected = probs * counts.sum()
    return chi2.sf(float(((counts - expected).square() / expected).sum()), len(counts) - 1)


@pytest.mark.parametrize(("symbols", "ratio", "count"), [(4, 1.0, 200_000), (1023, 3.5, 20_000)])
def test_the_arg_max_of_a_noised_one_hot_vector_has_the_uniform_kernels_law(symbols, ratio, count):
    """Chi-squared against a δ_x + (1 − a)/K, the others of a large vocabulary in groups of 73."""
    found = argmax_of(ratio, symbols, count, draws(1))
    survival = 1 - float(gaussian_undecided_share(torch.tensor(ratio, dtype=D), symbols)[0])
    law = torch.full((symbols,), (1 - survival) / symbols, dtype=D)
    law[0] += survival
    counts = torch.bincount(found, minlength=symbols).double()
    if symbols > 100:
        counts, law = (torch.cat([part[:1], part[1:].view(-1, 73).sum(1)]) for part in (counts, law))
    assert 0.2 < survival < 0.8
    assert 1e-3 < pearson(counts, law) < 1 - 1e-3


def test_one_noise_at_two_times_is_the_gaussian_trajectory_in_law():
    """Joint law of (z_t, z_s) over all pairs of 3 symbols: arg-max of one ε at two ratios, against the kernel's."""
    symbols, count, x = 3, 200_000, 0
    schedule, survival = DecidedShareSchedule(symbols), LinearSurvival()
    t, s = torch.tensor(0.6, dtype=D), torch.tensor(0.35, dtype=D)
    noise = torch.randn(count, symbols, generator=draws(2), dtype=D)
    states = []
    for time in (t, s):
        values = schedule(time)
        w = values.sigma * noise
        w[:, x] += values.alpha
        states.append(w.argmax(-1))
    gaussian = torch.bincount(symbols * states[0] + states[1], minlength=symbols**2).double()
    trajectory = draw_trajectory(UniformKernel(symbols + 1, survival), torch.full((count, 1), x), draws(3))
    shared = torch.bincount((symbols * trajectory.at(t) + trajectory.at(s)).flatten(), minlength=symbols**2).double()
    impossible = [0 * symbols + 1, 0 * symbols + 2, 1 * symbols + 2, 2 * symbols + 1]
    assert gaussian[impossible].sum() == shared[impossible].sum() == 0
    possible = [index for index in range(symbols**2) if index not in impossible]
    a_t, a_s = float(survival.a(t)), float(survival.a(s))
    jump, stay = (a_s - a_t) / symbols, (1 - a_s) / symbols
    law = torch.tensor([a_t + (1 - a_t) / symbols, jump, stay, jump, stay], dtype=D)
    assert law.sum() == pytest.approx(1)
    assert 1e-3 < pearson(gaussian[possible], law) < 1 - 1e-3
    assert 1e-3 < pearson(shared[possible], law) < 1 - 1e-3


def test_a_trajectory_has_the_kernels_marginals_and_changes_a_token_at_most_once():
    kernel = UniformKernel(5, LinearSurvival())
    x0 = torch.full((50_000, 1), 2)
    trajectory = draw_trajectory(kernel, x0, draws(4))
    times = torch.linspace(0, 1, 11, dtype=D)
    states = torch.stack([trajectory.at(time) for time in times])
    assert (states[0] == x0).all()
    assert ((states.diff(dim=0) != 0).sum(0) <= 1).all()
    counts = torch.bincount(trajectory.at(torch.tensor(0.7)).flatten(), minlength=4).double()
    law = kernel.marginal(x0[:1], torch.tensor(0.7))[0, 0, :4]
    assert 1e-3 < pearson(counts, law) < 1 - 1e-3
