"""Samplers that add noise: laws on Gaussian data, their deterministic limits, streams of noise per sample."""

from __future__ import annotations

import math

import pytest
import torch
from tests.samplers.exact_fields import POINT, D, noise, stream

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, VelocityPrediction, VPrediction
from isocline.processes.schedule import EDMSchedule, LinearSchedule, VPCosineSchedule, VPLinearSchedule
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.edm_heun import EDMHeunSampler
from isocline.samplers.grid import QuadraticTimeGrid, UniformTimeGrid
from isocline.samplers.predictor_corrector import PredictorCorrectorSampler
from isocline.samplers.renoise import add_noise
from isocline.samplers.restart import RestartSampler
from isocline.samplers.reverse_sde import ReverseSDESampler
from isocline.samplers.variable import TimeVariable
from isocline.solvers.euler_maruyama import EulerMaruyama
from isocline.solvers.explicit import Euler
from isocline.solvers.srk import ShARK
from isocline.solvers.stratonovich import StratonovichHeun

GAUSSIAN = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[0.3, 0.1]]))
PROCESSES = {
    "vp": GaussianProcess(VPLinearSchedule(), NoisePrediction()),
    "cosine": GaussianProcess(VPCosineSchedule(), VPrediction()),
    "linear": GaussianProcess(LinearSchedule(), VelocityPrediction()),
    "edm": GaussianProcess(EDMSchedule(), NoisePrediction()),
}
GRID, FINE = UniformTimeGrid(), QuadraticTimeGrid()
SAMPLERS: dict[str, AbstractSampler] = {
    "ddim": DDIMSampler(GRID, eta=1.0),
    "ddim_half": DDIMSampler(GRID, eta=0.5),
    "edm_heun": EDMHeunSampler(GRID, churn=40),
    "restart": RestartSampler(GRID, low=0.3, high=1.0, repeats=3, inner=4),
    "predictor_corrector": PredictorCorrectorSampler(GRID),
    "euler_maruyama": ReverseSDESampler(EulerMaruyama(), GRID),
    "half_reverse_sde": ReverseSDESampler(ShARK(), GRID, eta=0.5),
    "stochastic_heun": ReverseSDESampler(StratonovichHeun(), GRID),
}


def exact(process: GaussianProcess, mixture: GaussianMixture = GAUSSIAN) -> Denoiser:
    return Denoiser(mixture.network(process), process)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_law_of_samples_is_that_of_the_data(name: str, sampler: str) -> None:
    n = 4000
    found = SAMPLERS[sampler].sample(exact(PROCESSES[name]), noise(n), 300, generator=stream(1)).final
    mean, variance = GAUSSIAN.means[0].to(D), GAUSSIAN.variances[0].to(D)
    # Four standard errors, and a share for the bias of finite steps.
    assert ((found.mean(0) - mean).abs() < 4 * (variance / n).sqrt() + 0.01).all()
    assert ((found.var(0) - variance).abs() < variance * (4 * math.sqrt(2 / n) + 0.04)).all(), found.var(0)
    assert abs(float(found.T.cov()[0, 1])) < 4 * float((variance.prod() / n).sqrt()) + 0.003


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_noise_is_left_at_the_end(name: str, sampler: str) -> None:
    for nfe in (1, 2, 3, 30):
        found = SAMPLERS[sampler].sample(exact(PROCESSES[name], POINT), noise(), nfe, generator=stream())
        torch.testing.assert_close(found.final, POINT.means.expand_as(found.final), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_goes_up_by_the_forward_process(name: str) -> None:
    # A state made of data and noise at s0, noised up to s1, has the variance of the process at s1.
    y = torch.full((1, 1), 0.7, dtype=D)
    for s0, s1 in ((0.2, 0.6), (0.5, 1.0), (0.0, 0.3)):
        kept, added = add_noise(y, s0, s1, 0 * y), add_noise(0 * y, s0, s1, torch.ones_like(y))
        assert float(kept) == pytest.approx(0.7 * (1 - s1) / (1 - s0))
        assert float(added) ** 2 + (s0 * (1 - s1) / (1 - s0)) ** 2 == pytest.approx(s1**2)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize(
    ("sampler", "limit"),
    [
        (DDIMSampler(GRID, eta=0.0), DDIMSampler(GRID, eta=1e-9)),
        (EDMHeunSampler(GRID), EDMHeunSampler(GRID, churn=1e-14)),
        (EDMHeunSampler(GRID), EDMHeunSampler(GRID, churn=40, churn_min=1e9)),
        (EDMHeunSampler(GRID), RestartSampler(GRID, repeats=0)),
        (DDIMSampler(GRID), PredictorCorrectorSampler(GRID, corrections=0, eta=0.0)),
        (DDIMSampler(GRID, eta=1.0), PredictorCorrectorSampler(GRID, corrections=0)),
    ],
)
def test_without_noise_they_are_the_methods_that_they_extend(name: str, sampler, limit) -> None:
    found = [s.sample(exact(PROCESSES[name]), noise(), 21, generator=stream(5)).final for s in (sampler, limit)]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stepper", [EulerMaruyama(), StratonovichHeun(), ShARK()])
def test_the_reverse_sde_with_eta_0_converges_to_the_flow(stepper) -> None:
    denoiser = exact(PROCESSES["vp"])
    truth = EDMHeunSampler(FINE).sample(denoiser, noise(), 1001).final
    errors = [
        float((ReverseSDESampler(stepper, FINE, eta=0.0).sample(denoiser, noise(), n).final - truth).abs().mean())
        for n in (50, 200)
    ]
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.01


def test_euler_maruyama_without_noise_is_eulers_method_until_the_last_step() -> None:
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction())
    ours = ReverseSDESampler(EulerMaruyama(), GRID, eta=0.0).sample(exact(process), noise(), 20, save_steps=True)
    euler = ContinuousSampler(Euler(), GRID, TimeVariable()).sample(exact(process), noise(), 20, save_steps=True)
    torch.testing.assert_close(ours.ys[:-1], euler.ys[:-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_streams_of_their_own_make_samples_independent_of_the_batch(sampler: str) -> None:
    denoiser, x1 = exact(PROCESSES["vp"]), noise(6)

    def draw(rows: list[int]) -> torch.Tensor:
        streams = [stream(100 + row) for row in rows]
        return SAMPLERS[sampler].sample(denoiser, x1[rows], 24, generator=streams).final

    together = draw(list(range(6)))
    torch.testing.assert_close(draw([4, 1]), together[[4, 1]], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(together[0], SAMPLERS[sampler].sample(denoiser, x1, 24, generator=stream()).final[0])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["vp", "linear"])
def test_budgets_are_not_exceeded_and_counted_exactly(sampler: str, name: str) -> None:
    calls = 0

    class Counted(torch.nn.Module):
        def forward(self, t, x, cond=None):
            nonlocal calls
            calls += 1
            return torch.zeros_like(x)

    for nfe in (1, 2, 3, 4, 7, 12, 31, 100):
        calls = 0
        solution = SAMPLERS[sampler].sample(Denoiser(Counted(), PROCESSES[name]), noise(3), nfe, generator=stream())
        assert solution.stats.nfe.tolist() == [calls] * 3
        assert nfe - 1 <= calls <= nfe


def test_restarts_forget_the_errors_made_above_them() -> None:
    denoiser, truth = exact(PROCESSES["edm"]), GAUSSIAN.variances[0].to(D)

    def error(sampler: AbstractSampler, nfe: int) -> float:
        # A start that is too wide stands for errors made at large noise; both take 30 steps in the end.
        found = sampler.sample(denoiser, 1.5 * noise(4000), nfe, generator=stream(3)).final
        return float((found.var(0) / truth - 1).abs().max())

    restarted = RestartSampler(GRID, low=0.1, high=3.0, repeats=3, inner=8)
    assert restarted.steps(PROCESSES["edm"], 107) == 30
    assert error(restarted, 107) < error(EDMHeunSampler(GRID), 59) / 5


def test_the_steps_of_restarts_shrink_with_the_budget_too() -> None:
    narrow = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), 0.04))
    start = torch.randn(40_000, 1, dtype=D, generator=stream(7))
    found = RestartSampler(GRID).sample(exact(PROCESSES["linear"], narrow), start, 400, generator=stream(8)).final
    # Four standard errors; with two steps in each restart whatever the budget, the variance is off by a tenth.
    assert float(found.var()) == pytest.approx(0.04, rel=4 * math.sqrt(2 / 40_000))


def test_without_noise_no_generator_is_needed() -> None:
    plain = PredictorCorrectorSampler(GRID, corrections=0, eta=0.0)
    assert bool(plain.sample(exact(PROCESSES["vp"]), noise(), 8).succeeded.all())


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("nfe", [1, 3, 5, 8, 10, 15, 20, 32])
def test_a_budget_that_no_restart_can_use_goes_to_the_flow(name: str, nfe: int) -> None:
    found = RestartSampler(GRID).sample(exact(PROCESSES[name]), noise(2), nfe, generator=stream(4))
    assert nfe - 1 <= int(found.stats.nfe.max()) <= nfe


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_without_a_generator_is_refused_with_the_cure(sampler: str) -> None:
    with pytest.raises(ValueError, match=r"pass generator=torch.Generator\(\)"):
        SAMPLERS[sampler].sample(exact(PROCESSES["vp"]), noise(), 24)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RestartSampler(GRID, low=0.5, high=0.3), "low=0.5, high=0.3"),
        (lambda: ReverseSDESampler(EulerMaruyama(), GRID, eta=-1), "eta=-1"),
        (lambda: ReverseSDESampler(EulerMaruyama(), GRID, eta=math.nan), "eta=nan"),
        (lambda: PredictorCorrectorSampler(GRID, corrections=-1), "corrections=-1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
