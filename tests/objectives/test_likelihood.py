"""Likelihoods of exact flows against exact densities."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.objectives.likelihood import ExactTrace, HutchinsonTrace, ProbabilityFlowLikelihood, bits_per_dim
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import UniformLogRatioGrid
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, NoisePrediction, VelocityPrediction, VPrediction
from isocline.processes.probability_flow import LinearPathVariable, NoiseRatioVariable, TimeVariable
from isocline.processes.schedule import (
    EDMSchedule,
    LinearSchedule,
    TrigFlowSchedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)
from isocline.solvers import PIDController, SolverError
from isocline.solvers.explicit import RK4, Dopri5

D = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
VE = GaussianProcess(VESchedule(), NoisePrediction())
EDM = GaussianProcess(EDMSchedule(), DataPrediction())


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("process", "variable", "tolerance"),
    [
        (LINEAR, TimeVariable(), 1e-4),
        (LINEAR, LinearPathVariable(), 1e-4),
        (GaussianProcess(VPCosineSchedule(), VPrediction()), TimeVariable(), 1e-4),
        # VP-linear keeps 0.7 % of the data at t = 1: N(0, σ²) in place of p_1 costs this much.
        (GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3), TimeVariable(), 0.02),
        (GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3), NoiseRatioVariable(), 0.02),
        (GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3), LinearPathVariable(), 0.02),
        (GaussianProcess(TrigFlowSchedule(0.5), VelocityPrediction()), LinearPathVariable(), 1e-4),
        # The density is that of data smoothed by σ(0). The end of VE and EDM still has the data's mean and variance; of
        # the first, m, N(0, σ²) makes an error of z·m/σ nats.
        (VE, LinearPathVariable(), 5e-3),
        (EDM, LinearPathVariable(), 5e-3),
    ],
)
def test_the_flows_likelihood_is_the_mixtures_density(process, variable, tolerance: float) -> None:
    x = MIXTURE.sample(12, draws(1))
    flow = ProbabilityFlowLikelihood(
        Dopri5(), variable=variable, trace=ExactTrace(), controller=PIDController(rtol=1e-8, atol=1e-8)
    )
    found = flow.log_density(Denoiser(MIXTURE.network(process), process), x)
    exact = MIXTURE.log_density(process.schedule(process.t_min), x)
    torch.testing.assert_close(found.nats, exact, rtol=0, atol=tolerance)
    assert found.kind == "exact"


@pytest.mark.parametrize(
    "process",
    [
        GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3),
        GaussianProcess(VESchedule(), NoisePrediction()),
        GaussianProcess(EDMSchedule(), DataPrediction()),
    ],
    ids=["vp", "ve", "edm"],
)
def test_the_exact_terminal_law_closes_the_gap_to_the_prior(process) -> None:
    process.prior_log_density = lambda x: MIXTURE.log_density(process.schedule(1.0), x)
    x = MIXTURE.sample(12, draws(1))
    flow = ProbabilityFlowLikelihood(
        Dopri5(), variable=LinearPathVariable(), trace=ExactTrace(), controller=PIDController(rtol=1e-8, atol=1e-8)
    )
    found = flow.log_density(Denoiser(MIXTURE.network(process), process), x).nats
    torch.testing.assert_close(found, MIXTURE.log_density(process.schedule(process.t_min), x), rtol=0, atol=1e-5)


def test_hutchinsons_trace_is_unbiased_about_the_exact_one() -> None:
    # A field whose Jacobian has off-diagonal entries, so that the probe matters.
    rotated = MIXTURE.network(LINEAR)
    denoiser = Denoiser(rotated, LINEAR)
    x = MIXTURE.sample(4, draws(1))
    exact = ProbabilityFlowLikelihood(RK4(), 24, trace=ExactTrace()).log_density(denoiser, x).nats
    repeated = x.repeat_interleave(200, 0)  # every row has its own probe
    found = ProbabilityFlowLikelihood(RK4(), 24).log_density(denoiser, repeated, draws()).nats
    estimates = found.reshape(4, 200).T
    spread = estimates.std(0)
    assert (spread > 1e-3).any()
    assert ((estimates.mean(0) - exact).abs() <= 4 * spread / math.sqrt(200) + 1e-9).all()


def test_one_probe_is_fixed_per_solve() -> None:
    """The probe is drawn once: a generator moves on by one probe, whatever the number of steps."""
    denoiser, x = Denoiser(MIXTURE.network(LINEAR), LINEAR), MIXTURE.sample(4, draws(1))
    states = []
    for steps in (2, 9):
        generator = draws(5)
        ProbabilityFlowLikelihood(RK4(), steps).log_density(denoiser, x, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
    with pytest.raises(ValueError, match="generator"):
        ProbabilityFlowLikelihood().log_density(denoiser, x)


def test_fixed_grids_cost_what_they_say_and_work_in_inference_mode() -> None:
    denoiser, x = Denoiser(MIXTURE.network(LINEAR), LINEAR), MIXTURE.sample(4, draws(1)).float()
    plain = ProbabilityFlowLikelihood(RK4(), 10).log_density(denoiser, x, draws())
    assert plain.nfe.tolist() == [40] * 4
    assert plain.nats.dtype == D
    with torch.inference_mode():
        inside = ProbabilityFlowLikelihood(RK4(), 10).log_density(denoiser, x + 0, draws())
    assert torch.equal(plain.nats, inside.nats)


def test_a_broken_network_is_reported_not_averaged() -> None:
    class Broken(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return x * float("nan")

    with pytest.raises(SolverError, match="sample 0"):
        ProbabilityFlowLikelihood().log_density(Denoiser(Broken(), LINEAR), torch.ones(1, 2), draws())


class ImageGaussian(torch.nn.Module):
    """Exact velocity of N(0, v) pixels on the linear path."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

    def forward(self, t, x, cond=None):
        t = t.to(x.dtype)
        return x * (t - (1 - t) * self.variance) / ((1 - t) ** 2 * self.variance + t**2)


def test_bits_per_dim_of_a_gaussian_model_is_its_cross_entropy_plus_seven_bits() -> None:
    variance = 0.3
    images = torch.randint(0, 256, (6, 1, 4, 4), generator=draws(1), dtype=torch.uint8)
    denoiser = Denoiser(ImageGaussian(variance), LINEAR)
    flow = ProbabilityFlowLikelihood(RK4(), 20, trace=HutchinsonTrace())
    found = bits_per_dim(denoiser, images, draws(2), flow, draws=32)
    # E_u of (y + u)²: u has mean 1/2 and variance 1/12, in levels of 1/128.
    centre = (images.double() + 0.5) / 128 - 1
    square = (centre.square() + 1 / 12 / 128**2).flatten(1).mean(1)
    nats = 0.5 * square / variance + 0.5 * math.log(2 * math.pi * variance)
    torch.testing.assert_close(found.bits_per_dim, nats / math.log(2) + 7, rtol=0, atol=4e-3)
    torch.testing.assert_close(found.nats, found.bits_per_dim * 16 * math.log(2))
    assert found.nfe.tolist() == [32 * 80] * 6
    assert found.draws.shape == (32, 6)
    assert found.kind == "bound"
    with pytest.raises(ValueError, match="ExactTrace"):
        _ = found.importance_nats
    exact = bits_per_dim(
        denoiser, images[:2], draws(2), ProbabilityFlowLikelihood(RK4(), 20, trace=ExactTrace()), draws=8
    )
    assert (exact.importance_nats <= exact.nats + 1e-9).all()


def test_the_variance_over_draws_is_that_of_dequantisation_where_the_trace_has_none() -> None:
    variance, count = 0.3, 128
    images = torch.randint(0, 256, (6, 1, 4, 4), generator=draws(1), dtype=torch.uint8)
    flow = ProbabilityFlowLikelihood(RK4(), 20, trace=HutchinsonTrace())  # Signs are exact for diagonal Jacobians.
    found = bits_per_dim(Denoiser(ImageGaussian(variance), LINEAR), images, draws(2), flow, draws=count)
    # (c + w)² for w uniform on ±1/256: 4 c² E w² + E w⁴ − (E w²)².
    centre, width = (images.double() + 0.5) / 128 - 1, 1 / 256
    of_square = 4 * centre.square() * width**2 / 3 + width**4 * (1 / 5 - 1 / 9)
    exact = of_square.flatten(1).sum(1) / (2 * variance) ** 2 / (16 * math.log(2)) ** 2 / count
    assert float((found.variance / exact).mean()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / (6 * count)))
    with pytest.raises(ValueError, match="draws = 1"):
        _ = bits_per_dim(Denoiser(ImageGaussian(variance), LINEAR), images, draws(2), flow).variance


def test_uniform_noise_costs_eight_bits_under_a_uniform_model() -> None:
    """A model whose density is 1/2 on [−1, 1) per dimension: ln P = −8 ln 2 a pixel, whatever the image."""

    class Uniform(ProbabilityFlowLikelihood):
        def log_density(self, denoiser, x, generator=None, cond=None):
            from isocline.objectives.likelihood import LogDensity

            assert (x >= -1).all()
            assert (x < 1).all()
            return LogDensity(torch.full((len(x),), x[0].numel() * math.log(0.5), dtype=D), torch.ones(len(x)), "exact")

    images = torch.randint(0, 256, (3, 1, 4, 4), generator=draws(1), dtype=torch.uint8)
    found = bits_per_dim(Denoiser(ImageGaussian(1.0), LINEAR), images, draws(), Uniform())
    torch.testing.assert_close(found.bits_per_dim, torch.full((3,), 8.0, dtype=D))


def test_bad_images_and_draws_are_errors() -> None:
    denoiser = Denoiser(ImageGaussian(1.0), LINEAR)
    with pytest.raises(TypeError, match="uint8"):
        bits_per_dim(denoiser, torch.zeros(1, 1, 2, 2), draws())
    with pytest.raises(ValueError, match="draws=0"):
        bits_per_dim(denoiser, torch.zeros(1, 1, 2, 2, dtype=torch.uint8), draws(), draws=0)


def test_a_log_ratio_grid_resolves_a_noise_prediction_in_few_steps() -> None:
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
    x = MIXTURE.sample(12, draws(1))
    flow = ProbabilityFlowLikelihood(
        steps=32, grid=UniformLogRatioGrid(), variable=LinearPathVariable(), trace=ExactTrace()
    )
    found = flow.log_density(Denoiser(MIXTURE.network(process), process), x)
    torch.testing.assert_close(found.nats, MIXTURE.log_density(process.schedule(1e-3), x), rtol=0, atol=0.1)


@pytest.mark.parametrize("prediction", [DataPrediction(), NoisePrediction()])
def test_a_prediction_that_is_infinite_at_an_end_is_named_with_the_cure(prediction) -> None:
    process = GaussianProcess(VPCosineSchedule(), prediction)
    flow = ProbabilityFlowLikelihood(variable=TimeVariable(), trace=ExactTrace())
    with pytest.raises(SolverError, match=f"from t_min=0.0 to t_max=1.0, where a {type(prediction).__name__} may"):
        flow.log_density(Denoiser(MIXTURE.network(process), process), MIXTURE.sample(4, draws()))
