"""Adaptive sampling on exact fields: tolerance, independence of the batch, budget."""

from __future__ import annotations

import pytest
import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.adaptive import AdaptiveSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformLogRatioGrid
from isocline.samplers.guidance import ClassifierFreeGuidance
from isocline.samplers.variable import LinearPathVariable, TimeVariable
from isocline.solvers import RK4, Dopri8, PIDController, SolverError, Tsit5

D = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction())


def exact(process):
    return Denoiser(MIXTURE.network(process), process)


def noise(n: int = 16):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=D)


@pytest.mark.parametrize(
    ("process", "variable"), [(LINEAR, TimeVariable()), (LINEAR, LinearPathVariable()), (VP, LinearPathVariable())]
)
def test_the_error_follows_the_tolerance(process, variable) -> None:
    x1 = noise()
    truth = ContinuousSampler(RK4(), UniformLogRatioGrid(), LinearPathVariable()).sample(exact(process), x1, 8000).final
    for rtol in (1e-3, 1e-5):
        sampler = AdaptiveSampler(Tsit5(), PIDController(rtol, rtol), variable)
        assert float((sampler.sample(exact(process), x1, 10**4).final - truth).abs().max()) < 100 * rtol


def test_each_sample_is_what_it_is_alone_and_takes_the_evaluations_that_it_needs() -> None:
    sampler = AdaptiveSampler(Tsit5(), PIDController(1e-5, 1e-5), LinearPathVariable())
    together = sampler.sample(exact(LINEAR), noise(), 1000)
    assert together.stats.nfe.unique().numel() > 1
    for row in (0, 7):
        alone = sampler.sample(exact(LINEAR), noise()[row : row + 1], 1000)
        torch.testing.assert_close(alone.final[0], together.final[row], rtol=1e-13, atol=1e-13)
        assert int(alone.stats.nfe[0]) == int(together.stats.nfe[row])


def test_guidance_counts_both_forwards() -> None:
    sampler = AdaptiveSampler(Tsit5(), PIDController(1e-3, 1e-3), LinearPathVariable())
    labels = torch.zeros(16, dtype=torch.int64)
    calls = [0]

    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.exact = MIXTURE.network(LINEAR)

        def forward(self, t, x, cond=None):
            calls[0] += len(x)
            return self.exact(t, x)

    guided = ClassifierFreeGuidance(Denoiser(Counted(), LINEAR), scale=1.5)
    solution = sampler.sample(guided, noise(), 1000, cond=labels)
    # Samples that are done stay for a few evaluations more, which do not count.
    assert int(solution.stats.nfe.sum()) <= calls[0] <= 1.3 * int(solution.stats.nfe.sum())


def test_pictures_of_the_way_lie_on_the_solution_and_begin_with_noise() -> None:
    sampler = AdaptiveSampler(Dopri8(), PIDController(1e-9, 1e-9), LinearPathVariable())
    kept = sampler.sample(exact(LINEAR), noise(), 5000, save_steps=True)
    assert kept.ys.shape == (17, 16, 2)
    torch.testing.assert_close(kept.ys[0], noise())
    torch.testing.assert_close(kept.final, sampler.sample(exact(LINEAR), noise(), 5000).final, rtol=1e-6, atol=1e-6)


def test_a_budget_that_does_not_suffice_is_an_error_and_not_a_worse_picture() -> None:
    sampler = AdaptiveSampler(Tsit5(), PIDController(1e-8, 1e-8), LinearPathVariable())
    with pytest.raises(SolverError, match="nfe=30 does not suffice"):
        sampler.sample(exact(LINEAR), noise(), 30)
    with pytest.raises(ValueError, match="nfe=4 does not pay for one step of Tsit5"):
        sampler.sample(exact(LINEAR), noise(), 4)
