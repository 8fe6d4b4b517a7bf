"""Transport between two mixtures by the exact fields of their interpolant: laws at both ends and between, inverse."""

from __future__ import annotations

import math

import pytest
import torch
from tests.processes.interpolant_truth import FIRST, SECOND, D, ExactInterpolant

from isocline.processes.mixture import GaussianMixture
from isocline.processes.stochastic_interpolant import StochasticInterpolant
from isocline.samplers.interpolant import InterpolantTransport
from isocline.solvers import RK4, ConstantSteps, EulerMaruyama, FixedGrid, PIDController, SaveAt, Tsit5
from isocline.solvers.srk import ShARK

N = 2000
INTERPOLANT = StochasticInterpolant(0.8, t_min=1e-4)
EXACT = ExactInterpolant(INTERPOLANT, FIRST, SECOND)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def has_law(found: torch.Tensor, truth: torch.Tensor, bias: float = 0.01) -> None:
    """Compare means, second moments and masses beside lines to four standard errors."""
    for statistic in (
        lambda x: x,
        lambda x: torch.stack([x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1),
        lambda x: torch.cat([(x > 0.2), (x > -0.4)], 1).to(D),
    ):
        ours, theirs = statistic(found), statistic(truth)
        error = (ours.mean(0) - theirs.mean(0)).abs()
        assert (error < 4 * theirs.std(0) / math.sqrt(len(found)) + bias).all(), error


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("diffusivity", [0.0, 1.0, 4.0])
def test_samples_of_one_law_become_samples_of_the_other(backward: bool, diffusivity: float) -> None:
    source, goal = (SECOND, FIRST) if backward else (FIRST, SECOND)
    transport = InterpolantTransport(INTERPOLANT, EXACT.velocity, EXACT.noise, diffusivity)
    stepper = ShARK() if diffusivity else RK4()
    solution = transport(source.sample(N, draws(1)), stepper, ConstantSteps(80), backward=backward, generator=draws(2))
    has_law(solution.final, goal.sample(200_000, draws(3)))
    assert solution.stats.nfe.tolist() == [80 * stepper.nfe_per_step] * N


@pytest.mark.parametrize("diffusivity", [0.0, 2.0])
def test_the_law_on_the_way_is_that_of_the_interpolant(diffusivity: float) -> None:
    transport = InterpolantTransport(INTERPOLANT, EXACT.velocity, EXACT.noise, diffusivity)
    stepper = ShARK() if diffusivity else RK4()
    found = transport(
        FIRST.sample(N, draws(1)), stepper, ConstantSteps(80), generator=draws(2), saveat=SaveAt(steps=True)
    )
    n = 100_000
    z = torch.randn(n, 2, generator=draws(6), dtype=D)
    for index in (20, 40, 68):
        t = found.ts[index]
        has_law(found.ys[index], INTERPOLANT.sample(FIRST.sample(n, draws(4)), SECOND.sample(n, draws(5)), z, t).x)


def test_the_flow_s_way_back_is_its_inverse() -> None:
    transport = InterpolantTransport(INTERPOLANT, EXACT.velocity)
    start, control = FIRST.sample(16, draws(1)), PIDController(1e-8, 1e-8)
    there = transport(start, Tsit5(), control).final
    torch.testing.assert_close(transport(there, Tsit5(), control, backward=True).final, start, rtol=1e-5, atol=1e-5)


def test_between_two_gaussians_the_flow_is_their_affine_map() -> None:
    def gaussian(mean: float, variance: float) -> GaussianMixture:
        return GaussianMixture(torch.ones(1), torch.tensor([[mean]]), torch.tensor([[variance]]))

    exact = ExactInterpolant(INTERPOLANT, gaussian(1.0, 0.25), gaussian(-2.0, 0.04))
    x = torch.linspace(-1, 3, 9, dtype=D)[:, None]
    found = InterpolantTransport(INTERPOLANT, exact.velocity)(x, Tsit5(), PIDController(1e-9, 1e-9)).final
    # The time is held at t_min at the ends: an error of the order of t_min.
    torch.testing.assert_close(found, -2.0 + (x - 1.0) * 0.2 / 0.5, rtol=0, atol=2e-3)


def test_streams_of_their_own_make_samples_independent_of_the_batch() -> None:
    transport = InterpolantTransport(INTERPOLANT, EXACT.velocity, EXACT.noise, 1.0)
    x = FIRST.sample(5, draws(1))

    def carry(rows: list[int]) -> torch.Tensor:
        streams = [draws(50 + row) for row in rows]
        return transport(x[rows], EulerMaruyama(), FixedGrid([0.0, 0.3, 0.7, 1.0]), generator=streams).final

    torch.testing.assert_close(carry([3, 1]), carry(list(range(5)))[[3, 1]])


def test_what_cannot_be_done_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match="diffusivity=-1"):
        InterpolantTransport(INTERPOLANT, EXACT.velocity, EXACT.noise, -1.0)
    with pytest.raises(ValueError, match="needs noise="):
        InterpolantTransport(INTERPOLANT, EXACT.velocity, diffusivity=1.0)
    transport = InterpolantTransport(INTERPOLANT, EXACT.velocity, EXACT.noise, 1.0)
    with pytest.raises(ValueError, match=r"pass generator=torch.Generator\(\)"):
        transport(FIRST.sample(2, draws()), ShARK(), ConstantSteps(4))
    with pytest.raises(TypeError, match="needs a stepper of SDEs, got RK4"):
        transport(FIRST.sample(2, draws()), RK4(), ConstantSteps(4), generator=draws())
