"""The bound of Gaussian diffusions of tokens: with the exact denoiser it is the entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from isocline.objectives.gaussian_bound import LogNoiseShareTimes, UniformBoundTimes, gaussian_bound
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import LinearSchedule, VPCosineSchedule

TIMES = [UniformBoundTimes(), LogNoiseShareTimes()]


class Truth:
    """A law of two tokens out of three with latents in the plane, and its exact posterior given z."""

    def __init__(self, process, table=None):
        self.law = EnumeratedLaw.random(3, 2, 1.5, torch.Generator().manual_seed(1))
        self.table = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.3, -1.2]]).double() if table is None else table
        self.latents = F.embedding(self.law.sequences, self.table)
        self.process = process

    def posterior(self, t, z):
        values = self.process.schedule(t)
        distance = (z.unsqueeze(1) - values.alpha.view(-1, 1, 1, 1) * self.latents).square().sum((-1, -2))
        return (self.law.probs.log() - distance / (2 * values.sigma.view(-1, 1) ** 2)).log_softmax(-1)

    def denoise(self, t, z):
        return torch.einsum("bn,nld->bld", self.posterior(t, z).exp(), self.latents)

    def estimate(self, repeats, times, strata=8, denoise=None):
        rows = torch.arange(9).repeat(repeats)
        decode = lambda t, z: self.posterior(t, z).gather(1, rows.unsqueeze(1)).squeeze(1)  # noqa: E731
        found = gaussian_bound(
            self.process, self.latents[rows], denoise or self.denoise, decode,
            torch.Generator().manual_seed(0), strata, times,
        )  # fmt: skip
        assert found.kind == "bound"
        means = (found.nats.view(repeats, 9) * self.law.probs).sum(1)
        return means.mean(), means.std() / repeats**0.5


@pytest.mark.parametrize("times", TIMES, ids=lambda times: type(times).__name__)
@pytest.mark.parametrize("t_min", [0.2, 0.05])
def test_with_the_exact_denoiser_and_decoder_the_bound_is_the_entropy(times, t_min):
    truth = Truth(GaussianProcess(LinearSchedule(), DataPrediction(), t_min=t_min))
    mean, error = truth.estimate(2000, times)
    assert error < 0.03
    assert abs(mean - truth.law.entropy) < 4 * error


@pytest.mark.parametrize("times", TIMES, ids=lambda times: type(times).__name__)
def test_a_worse_denoiser_raises_the_bound(times):
    truth = Truth(GaussianProcess(LinearSchedule(), DataPrediction(), t_min=0.2))
    mean, error = truth.estimate(1000, times, denoise=lambda t, z: 0.8 * truth.denoise(t, z))
    assert mean > truth.law.entropy + 4 * error


def test_what_is_left_of_the_data_at_t_max_is_paid_by_the_prior_term():
    # With x̂ = x and a sure decoder nothing else is left: KL(N(αx, σ²) ‖ N(0, σ²)) = α²‖x‖²/2σ².
    process = GaussianProcess(VPCosineSchedule(max_log_ratio=0.5), DataPrediction(), t_min=0.1)
    latents = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gaussian_bound(
        process, latents, lambda t, z: latents, lambda t, z: torch.zeros(4), torch.Generator().manual_seed(0), 2
    )
    torch.testing.assert_close(found.nats, 0.5 * math.exp(-1.0) * latents.square().sum((1, 2)))


def test_both_laws_of_time_give_the_integral_of_the_same_weight():
    process = GaussianProcess(LinearSchedule(), DataPrediction(), t_min=0.3, t_max=0.9)
    ratio = lambda t: (1 - t) / t  # noqa: E731
    exact = 0.5 * (ratio(0.3) ** 2 - ratio(0.9) ** 2)
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for times in TIMES:
        t, weight = times(u, process)
        assert t.min() >= 0.3
        assert t.max() <= 0.9
        assert weight.mean().item() == pytest.approx(exact, rel=1e-6)


def test_a_process_that_reaches_clean_data_is_refused():
    process = GaussianProcess(LinearSchedule(), DataPrediction())
    with pytest.raises(ValueError, match="t_min = 0"):
        gaussian_bound(process, torch.zeros(1, 1, 1), None, None, torch.Generator())
