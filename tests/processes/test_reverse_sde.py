"""The reverse SDE family on a Gaussian mixture: every η keeps the marginals, and the equations are one another's."""

from __future__ import annotations

import pytest
import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import (
    DataPrediction,
    NoisePrediction,
    PreconditionedPrediction,
    VelocityPrediction,
    VPrediction,
)
from isocline.processes.reverse_sde import reverse_diffusion, reverse_drift
from isocline.processes.schedule import (
    EDMSchedule,
    InterpolantSchedule,
    LinearSchedule,
    TrigFlowSchedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)
from isocline.solvers.controller import FixedGrid
from isocline.solvers.euler_maruyama import EulerMaruyama
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import SDEProblem

D = torch.float64
MIXTURE = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[1.0], [-0.5]]), torch.tensor([[0.04], [0.09]]))
PROCESSES = [
    GaussianProcess(LinearSchedule(), VelocityPrediction()),
    GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=0.001),
    GaussianProcess(VPCosineSchedule(), VPrediction()),
    GaussianProcess(TrigFlowSchedule(0.6), VelocityPrediction()),
    GaussianProcess(InterpolantSchedule(0.7), DataPrediction()),
    GaussianProcess(VESchedule(0.01, 10.0), PreconditionedPrediction(0.6)),
    GaussianProcess(EDMSchedule(0.002, 20.0), PreconditionedPrediction(0.6)),
]


def drift(process: GaussianProcess, eta: float):
    return reverse_drift(Denoiser(MIXTURE.network(process), process), eta)


def squared_diffusion(process: GaussianProcess, t: torch.Tensor) -> torch.Tensor:
    return reverse_diffusion(process, 1.0)(t, t[:, None], None).square()


def forward_drift(process: GaussianProcess, t: torch.Tensor) -> torch.Tensor:
    values = process.schedule(t)
    return (values.dalpha / values.alpha)[:, None]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_drift_and_diffusion_are_the_family_s(process, eta) -> None:
    t = torch.linspace(0.1, 0.9, 5, dtype=D)
    x = torch.linspace(-1.5, 1.5, 5, dtype=D)[:, None]
    values = process.schedule(t)
    f, g2 = forward_drift(process, t), squared_diffusion(process, t)
    expected = f * x - 0.5 * (1 + eta**2) * g2 * MIXTURE.score(values, x)
    torch.testing.assert_close(drift(process, eta)(t, x, None), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(reverse_diffusion(process, eta)(t, x, None), eta * g2.sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_forward_coefficients_carry_the_variance_of_pure_noise(process) -> None:
    # d(σ²)/dt = 2Fσ² + g², with the derivative by differences.
    t, h = torch.linspace(0.1, 0.9, 9, dtype=D), 1e-5
    values = process.schedule(t)
    slope = (process.schedule(t + h).sigma.square() - process.schedule(t - h).sigma.square()) / (2 * h)
    found = 2 * forward_drift(process, t)[:, 0] * values.sigma.square() + squared_diffusion(process, t)[:, 0]
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-8)


def test_vp_s_diffusion_is_the_root_of_beta_and_ve_s_the_derivative_of_the_variance() -> None:
    t = torch.linspace(0.01, 1.0, 12, dtype=D)
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(squared_diffusion(PROCESSES[1], t)[:, 0], beta, rtol=1e-9, atol=0)
    ve = PROCESSES[5].schedule(t)
    torch.testing.assert_close(squared_diffusion(PROCESSES[5], t)[:, 0], 2 * ve.sigma * ve.dsigma)


@pytest.mark.parametrize("eta", [0.7, 1.0])
@pytest.mark.parametrize("index", [0, 1, 5], ids=["linear", "vp", "ve"])
def test_every_member_keeps_the_marginals(index, eta) -> None:
    process = PROCESSES[index]
    start, end, n = 0.9, 0.1, 10_000
    generator = torch.Generator().manual_seed(3)
    x0 = MIXTURE.sample(n, generator)
    x1 = torch.randn(n, 1, generator=generator, dtype=D)
    x = process.mix(x0, x1, process.schedule(start))
    problem = SDEProblem(drift(process, eta), reverse_diffusion(process, eta), x, start, end, generator=generator)
    found = solve_strict(problem, EulerMaruyama(), FixedGrid(torch.linspace(start, end, 121, dtype=D))).final[:, 0]
    # The cumulative distribution at five points: their standard error is at most 0.005, and Euler's bias is smaller.
    values = process.schedule(end)
    sd = (values.alpha.square() * MIXTURE.variances[:, 0] + values.sigma.square()).sqrt()
    for point in torch.linspace(-0.9, 1.1, 5, dtype=D):
        exact = MIXTURE.weights @ torch.special.ndtr((point - values.alpha * MIXTURE.means[:, 0]) / sd)
        assert abs(float((found <= point).double().mean() - exact)) < 0.015
