"""Euler–Maruyama against closed forms: strong and weak order."""

import math

import pytest
import torch

from isocline.solvers import ConstantSteps, Euler, EulerMaruyama, ODEProblem, SDEProblem, solve

F64 = torch.float64
DRIFT, NOISE = 1.5, 1.0


def generator(seed):
    return torch.Generator().manual_seed(seed)


def brownian_end(seed, steps, paths):
    """The Wiener process's value at time one along the path that the stepper draws from the same seed."""
    source = generator(seed)
    draws = [torch.randn(paths, 1, generator=source, dtype=F64) for _ in range(steps)]
    return torch.stack(draws).sum(0) / math.sqrt(steps)


def slope(errors, counts):
    x = -torch.tensor(counts, dtype=F64).log()
    y = torch.tensor(errors, dtype=F64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def test_geometric_brownian_motion_converges_strongly_with_order_one_half():
    paths, errors, counts = 4000, [], [16, 32, 64, 128, 256]
    for seed, count in enumerate(counts):
        problem = SDEProblem(
            lambda t, y, c: DRIFT * y,
            lambda t, y, c: NOISE * y,
            torch.ones(paths, 1, dtype=F64),
            0.0,
            1.0,
            generator=generator(seed),
        )
        final = solve(problem, EulerMaruyama(), ConstantSteps(count)).final
        exact = torch.exp(DRIFT - NOISE**2 / 2 + NOISE * brownian_end(seed, count, paths))
        errors.append(float((final - exact).abs().mean()))
    assert slope(errors, counts) == pytest.approx(0.5, abs=0.2)


def test_means_converge_weakly_with_order_one():
    # E[y1] of Euler–Maruyama on geometric Brownian motion is (1 + DRIFT h)^N exactly; the control variate
    # exp(σW - σ²/2) leaves little Monte-Carlo noise on the estimate.
    paths, errors, counts = 40_000, [], [2, 4, 8, 16]
    for seed, count in enumerate(counts):
        problem = SDEProblem(
            lambda t, y, c: DRIFT * y,
            lambda t, y, c: 0.2 * y,
            torch.ones(paths, 1, dtype=F64),
            0.0,
            1.0,
            generator=generator(seed),
        )
        final = solve(problem, EulerMaruyama(), ConstantSteps(count)).final
        control = torch.exp(0.2 * brownian_end(seed, count, paths) - 0.02)
        spread = (final - math.exp(DRIFT) * control).mean()
        errors.append(abs(float(spread)))
        assert float(final.mean()) == pytest.approx((1 + DRIFT / count) ** count, rel=0.01)
    assert slope(errors, counts) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("span", [(0.0, 4.0), (4.0, 0.0)], ids=["forward", "reversed"])
def test_ornstein_uhlenbeck_moments_are_reached_in_either_direction_of_time(span):
    # dy = -s y dt + √2 dw with s the direction of time: stationary variance one up to the scheme's bias 1/(1 - h/2).
    direction = 1.0 if span[1] > span[0] else -1.0
    problem = SDEProblem(
        lambda t, y, c: -direction * y,
        lambda t, y, c: torch.tensor(math.sqrt(2), dtype=F64),
        torch.full((20_000, 1), 3.0, dtype=F64),
        *span,
        generator=generator(3),
    )
    final = solve(problem, EulerMaruyama(), ConstantSteps(200)).final
    h = 0.02
    variance = (1 - (1 - h) ** 400) / (1 - h / 2)
    assert float(final.mean()) == pytest.approx(3 * (1 - h) ** 200, abs=0.03)
    assert float(final.var()) == pytest.approx(variance, rel=0.04)


def test_without_noise_the_step_is_eulers():
    y0 = torch.rand(5, 3, generator=generator(0))
    sde = SDEProblem(
        lambda t, y, c: -y * (1 + t), lambda t, y, c: torch.zeros(()), y0, 1.0, 0.0, generator=generator(1)
    )
    ode = ODEProblem(lambda t, y, c: -y * (1 + t), y0, 1.0, 0.0)
    noisy = solve(sde, EulerMaruyama(), ConstantSteps(9))
    assert torch.equal(noisy.final, solve(ode, Euler(), ConstantSteps(9)).final)
    assert noisy.stats.nfe.tolist() == [9] * 5


def test_the_same_generator_state_gives_the_same_path():
    def run(seed):
        problem = SDEProblem(
            lambda t, y, c: -y, lambda t, y, c: t, torch.ones(2, 2), 0.0, 1.0, generator=generator(seed)
        )
        return solve(problem, EulerMaruyama(), ConstantSteps(5)).final

    assert torch.equal(run(7), run(7))
    assert not torch.equal(run(7), run(8))


def test_other_problems_are_refused():
    with pytest.raises(TypeError, match="SDEProblem"):
        solve(ODEProblem(lambda t, y, c: y, torch.ones(1, 1), 0.0, 1.0), EulerMaruyama(), ConstantSteps(2))
