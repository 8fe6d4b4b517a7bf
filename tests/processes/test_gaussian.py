"""The path, its target, and the mixture that knows everything about it."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.processes.coupling import IndependentCoupling, MinibatchOTCoupling, PairedCoupling
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import (
    DataPrediction,
    NoisePrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
)
from isocline.processes.schedule import LinearSchedule, VPCosineSchedule, VPLinearSchedule

D = torch.float64


@pytest.fixture
def mixture() -> GaussianMixture:
    return GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.2], [0.1, 0.05]])
    )


@pytest.fixture
def draws() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_a_sample_lies_on_the_path_with_one_time_per_row(draws: torch.Generator) -> None:
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    x0, x1 = torch.randn(4, 1, 3, 3, generator=draws), torch.randn(4, 1, 3, 3, generator=draws)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=D)
    path = process.sample(x0, x1, t)
    tt = t.float().reshape(4, 1, 1, 1)
    torch.testing.assert_close(path.x, (1 - tt) * x0 + tt * x1)
    torch.testing.assert_close(path.target, x1 - x0)
    assert path.x.dtype == path.target.dtype == torch.float32


@pytest.mark.parametrize("times", [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.2)])
def test_a_wrong_range_of_times_is_an_error(times: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="t_min"):
        GaussianProcess(LinearSchedule(), VelocityPrediction(), *times)


def test_the_prior_density_is_that_of_the_prior() -> None:
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction())
    x = torch.tensor([[0.3, -1.2]])
    sigma = math.sqrt(1 - math.exp(-2 * 5.025))
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=D), sigma)
    torch.testing.assert_close(process.prior_log_density(x), normal.log_prob(x.double()).sum(1))
    torch.testing.assert_close(process.prior(x), sigma * x)


def test_the_mixtures_score_is_the_gradient_of_its_log_density(mixture: GaussianMixture) -> None:
    for t in (0.05, 0.5, 1.0):
        values = VPCosineSchedule()(torch.tensor(t))
        x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=D, requires_grad=True)
        (gradient,) = torch.autograd.grad(mixture.log_density(values, x).sum(), x)
        torch.testing.assert_close(mixture.score(values, x), gradient)


def test_tweedies_formula_links_score_and_posterior_means(mixture: GaussianMixture) -> None:
    t = torch.tensor([0.2, 0.5, 0.9])
    values = LinearSchedule()(t)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    data, noise = mixture.posterior(values, x)
    alpha, sigma = values.alpha[:, None], values.sigma[:, None]
    torch.testing.assert_close(alpha * data + sigma * noise, x)
    torch.testing.assert_close((x + sigma**2 * mixture.score(values, x)) / alpha, data)


def test_the_mixtures_samples_have_its_moments(mixture: GaussianMixture, draws: torch.Generator) -> None:
    x = mixture.sample(40_000, draws)
    torch.testing.assert_close(x.mean(0), mixture.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.T.cov(), mixture.covariance, rtol=0, atol=0.02)


def test_the_mixtures_density_obeys_the_continuity_equation(mixture: GaussianMixture) -> None:
    """d ln p/dt + div u + u·∇ ln p = 0 for the exact velocity."""
    schedule = LinearSchedule()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=D, requires_grad=True)
    t = torch.tensor(0.4, dtype=D, requires_grad=True)
    (rate,) = torch.autograd.grad(mixture.log_density(schedule(t), x)[0], t)
    velocity = mixture.predict(schedule(t), x, VelocityPrediction())
    divergence = sum(torch.autograd.grad(velocity[0, i], x, retain_graph=True)[0][0, i] for i in range(2))
    advection = (velocity * mixture.score(schedule(t), x)).sum(1)[0]
    assert (rate + divergence + advection).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(
    "prediction", [DataPrediction(), NoisePrediction(), ScorePrediction(), VPrediction(), VelocityPrediction()]
)
def test_a_denoiser_gives_the_exact_velocity_whatever_its_network_predicts(
    mixture: GaussianMixture, prediction
) -> None:
    process = GaussianProcess(VPLinearSchedule(), prediction)
    denoiser = Denoiser(mixture.network(process), process)
    t = torch.tensor([0.1, 0.6, 0.95], dtype=D)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    values = process.schedule(t)
    torch.testing.assert_close(denoiser.velocity(t, x), mixture.predict(values, x, VelocityPrediction()))
    torch.testing.assert_close(denoiser.data(t, x), mixture.posterior(values, x)[0], rtol=1e-6, atol=1e-8)


def test_optimal_transport_permutes_the_same_noise_and_lowers_the_cost() -> None:
    x0 = torch.randn(32, 2, generator=torch.Generator().manual_seed(1)) * 2
    _, plain = IndependentCoupling()(x0, None, torch.Generator().manual_seed(5))
    same, coupled = MinibatchOTCoupling()(x0, None, torch.Generator().manual_seed(5))
    assert same is x0
    assert torch.equal(plain.sort(0).values, coupled.sort(0).values)
    before, after = ((x0 - x).square().sum() for x in (plain, coupled))
    assert after < 0.7 * before
    for i in range(31):  # no exchange of neighbours lowers an optimal cost
        swapped = coupled.clone()
        swapped[[i, i + 1]] = coupled[[i + 1, i]]
        assert (x0 - swapped).square().sum() >= after - 1e-4


def test_half_precision_outside_does_not_round_the_assignment() -> None:
    x0 = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    exact = MinibatchOTCoupling()(x0, None, torch.Generator().manual_seed(5))[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MinibatchOTCoupling()(x0, None, torch.Generator().manual_seed(5))[1], exact)


def test_pairs_are_kept_and_demanded() -> None:
    x0, x1, g = torch.zeros(2, 1), torch.ones(2, 1), torch.Generator()
    assert PairedCoupling()(x0, x1, g)[1] is x1
    with pytest.raises(ValueError, match="x1"):
        PairedCoupling()(x0, None, g)
    assert not torch.equal(IndependentCoupling()(x0, x1, g)[1], x1)
