"""DPM-Solver-v3: special cases that are other methods, cases that are exact, and what the statistics gain."""

from __future__ import annotations

from pathlib import Path

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf
from tests.samplers.exact_fields import MIXTURE, PROCESSES, D, exact, noise

from isocline.processes.mixture import GaussianMixture
from isocline.processes.probability_flow import LinearPathVariable
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.dpm_v3 import StatisticsForm, with_statistics
from isocline.samplers.exponential import ExponentialSampler
from isocline.samplers.grid import UniformLogRatioGrid
from isocline.samplers.log_ratio import DataForm, NoiseForm
from isocline.samplers.model_statistics import ModelStatistics, estimate_statistics
from isocline.samplers.multistep import ExponentialMultistep
from isocline.solvers.explicit import RK4

CONFIG = Path(__file__).parents[2] / "conf" / "sampler" / "dpm_v3.yaml"


@pytest.mark.parametrize(
    ("constants", "form"), [((1.0, 0.0), DataForm(None)), ((0.0, -1.0), NoiseForm())], ids=["data", "noise"]
)
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("process", ["vp", "edm"])
def test_with_constant_statistics_it_is_the_data_or_the_noise_form(process, corrector, constants, form) -> None:
    trivial = StatisticsForm(ModelStatistics.constant(*constants, (2,)))
    ours, known = (
        ExponentialSampler(ExponentialMultistep(3, one, corrector), UniformLogRatioGrid())
        .sample(exact(PROCESSES[process]), noise(), 24, save_steps=True)
        .ys
        for one in (trivial, form)
    )
    torch.testing.assert_close(ours, known, rtol=1e-5, atol=1e-6)


def test_the_growth_of_a_remainder_is_integrated_exactly() -> None:
    """With l = 0 and N = e^{−λ} ε a solution of dN/dλ = s N + b, any order is exact whatever the step."""
    growth, drift = 0.7, -0.3
    path = torch.tensor([-1.0, 1.0], dtype=D)
    ones = torch.ones(2, 1, dtype=D)
    form = StatisticsForm(ModelStatistics(path, 0 * ones, growth * ones, drift * ones))

    def remainder(lam: float) -> float:
        return 1.3 * torch.tensor(growth * lam).exp().item() - drift / growth

    lam0, lam1 = -0.5, 0.9
    s0, s1 = (1 / (1 + torch.tensor(lam, dtype=D).exp().item()) for lam in (lam0, lam1))
    y = torch.full((1, 1), 0.4, dtype=D)
    found = form.advance(y, s0, s1, [s0], [torch.full((1, 1), remainder(lam0), dtype=D)])
    gain = torch.tensor([growth * lam0, growth * lam1], dtype=D).exp()
    integral = 1.3 / growth * (gain[1] - gain[0]) - drift / growth * (lam1 - lam0)
    expected = (1 - s1) * (y / (1 - s0) - integral)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gaussian_data_take_one_step_whatever_its_length() -> None:
    gaussian = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[0.3, 0.1]]))
    process, generator = PROCESSES["ve"], torch.Generator().manual_seed(0)
    denoiser = exact(process, gaussian)
    lam = torch.linspace(-3.9, 5, 150, dtype=D)
    statistics = estimate_statistics(denoiser, gaussian.sample(16, generator), lam, generator)

    def end(form, nfe: int) -> torch.Tensor:
        method = ExponentialMultistep(1, form)
        solution = ExponentialSampler(method, UniformLogRatioGrid()).sample(denoiser, noise(), nfe, save_steps=True)
        return solution.ys[-2]

    values = process.schedule(0.0)
    spread = (gaussian.variances + values.sigma**2).sqrt() / (
        gaussian.variances + process.schedule(1.0).sigma ** 2
    ).sqrt()
    truth = gaussian.means + (process.prior(noise()) - gaussian.means) * spread
    torch.testing.assert_close(end(StatisticsForm(statistics), 2), truth, rtol=0, atol=2e-3)
    assert float((end(DataForm(), 2) - truth).abs().max()) > 0.1


@pytest.mark.parametrize("process", ["linear", "vp"])
def test_statistics_of_the_model_lower_the_error_at_few_evaluations(process: str) -> None:
    denoiser, generator = exact(PROCESSES[process]), torch.Generator().manual_seed(1)
    lam = torch.linspace(-4.9, 5, 34, dtype=D)
    statistics = estimate_statistics(denoiser, MIXTURE.sample(64, generator), lam, generator)
    # On a grid whose last step is short: its error, the same for all methods, does not hide the rest.
    configured = hydra.utils.instantiate(OmegaConf.load(CONFIG)).on(UniformLogRatioGrid())
    truth = ContinuousSampler(RK4(), UniformLogRatioGrid(), LinearPathVariable()).sample(denoiser, noise(), 2000).final

    def error(sampler: ExponentialSampler, nfe: int) -> float:
        return float((sampler.sample(denoiser, noise(), nfe).final - truth).abs().mean())

    plain = ExponentialSampler(ExponentialMultistep(3, DataForm(), corrector=True), configured.grid)
    for nfe in (6, 8, 10):
        assert error(with_statistics(configured, statistics), nfe) < 0.7 * error(plain, nfe)
    assert error(with_statistics(configured, statistics), 80) < 1e-3


def test_without_statistics_it_says_what_is_missing() -> None:
    configured = hydra.utils.instantiate(OmegaConf.load(CONFIG))
    with pytest.raises(ValueError, match="needs statistics of the model"):
        configured.sample(exact(PROCESSES["vp"]), noise(), 4)
    other = ExponentialSampler(ExponentialMultistep(2, DataForm()), UniformLogRatioGrid())
    with pytest.raises(TypeError, match="no use for statistics"):
        with_statistics(other, ModelStatistics.constant(1.0, 0.0, (2,)))
