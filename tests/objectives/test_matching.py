"""Matching losses against exact minimisers; weights and laws of time against their formulae."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import (
    LogitNormalTimes,
    LogNormalNoiseTimes,
    StratifiedTimes,
    UniformTimes,
)
from isocline.objectives.weighting import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SigmaSquaredWeighting,
    UniformWeighting,
)
from isocline.processes.coupling import PairedCoupling
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import (
    DataPrediction,
    NoisePrediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
)
from isocline.processes.schedule import EDMSchedule, LinearSchedule, VPCosineSchedule, VPLinearSchedule

D = torch.float64
PREDICTIONS = [DataPrediction(), NoisePrediction(), ScorePrediction(), VPrediction(), VelocityPrediction()]
WEIGHTINGS = [
    UniformWeighting(),
    SigmaSquaredWeighting(),
    MinSNRWeighting(),
    EDMWeighting(),
    LikelihoodWeighting(),
]
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Shifted(torch.nn.Module):
    """The exact network plus δ times a smooth function."""

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.exact = MIXTURE.network(process)
        self.delta = torch.nn.Parameter(torch.zeros((), dtype=D))

    def forward(self, t, x, cond=None):
        return self.exact(t, x) + self.delta * torch.stack([x[:, 1].sin(), 1 + x[:, 0]], 1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_exact_posterior_mean_minimises_every_loss(prediction, weighting) -> None:
    process = GaussianProcess(VPCosineSchedule(), prediction, t_min=0.1, t_max=0.9)
    objective, network = DenoisingMatching(process, weighting, StratifiedTimes()), Shifted(process)
    data = MIXTURE.sample(40_000, draws(1))

    def loss(delta: float) -> float:
        network.delta.data.fill_(delta)
        return float(objective(network, Batch(data), draws(2)).total)

    low, middle, high = loss(-0.5), loss(0.0), loss(0.5)
    curvature = low + high - 2 * middle
    assert curvature > 0
    # The parabola's minimum lies at δ = 0 up to the sampling error.
    assert abs(low - high) < 0.06 * curvature


def test_the_least_loss_of_flow_matching_is_the_posterior_variance() -> None:
    """Gaussian data N(0, v): Var(ε − x0 | x_t) = v/((1−t)² v + t²), integrated over t."""
    v = 0.25
    gaussian = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), v))
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    loss = DenoisingMatching(process, times=StratifiedTimes())(
        gaussian.network(process), Batch(gaussian.sample(100_000, draws(1))), draws(2)
    )
    t = (torch.arange(10_000, dtype=D) + 0.5) / 10_000
    expected = float((v / ((1 - t) ** 2 * v + t**2)).mean())
    assert float(loss.total) == pytest.approx(expected, rel=0.02)
    assert float(loss.terms["mse"]) == float(loss.total)


def test_the_gradient_is_that_of_the_loss_and_the_terms_have_none() -> None:
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    network = Shifted(process)
    network.delta.data.fill_(0.3)
    loss = DenoisingMatching(process, MinSNRWeighting())(network, Batch(MIXTURE.sample(64, draws())), draws(1))
    loss.total.backward()
    assert network.delta.grad is not None
    assert network.delta.grad.abs() > 0
    assert not loss.terms["mse"].requires_grad


def test_all_randomness_comes_from_the_generator() -> None:
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
    objective, network = DenoisingMatching(process), MIXTURE.network(process)
    batch = Batch(MIXTURE.sample(32, draws()).float())
    torch.manual_seed(1)
    first = objective(network, batch, draws(3)).total
    torch.manual_seed(2)
    assert torch.equal(first, objective(network, batch, draws(3)).total)
    assert not torch.equal(first, objective(network, batch, draws(4)).total)
    assert first.dtype == torch.float32


def test_the_condition_reaches_the_network_and_pairs_are_used() -> None:
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, t, x, cond=None):
            seen.update(t=t, cond=cond)
            return torch.zeros_like(x)

    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    x0, x1, labels = torch.zeros(4, 1, 2, 2), torch.full((4, 1, 2, 2), 3.0), torch.arange(4)
    objective = DenoisingMatching(process, coupling=PairedCoupling(), label_dropout=0.0)
    loss = objective(Spy(), Batch(x0, labels, x1), draws())
    assert float(loss.total) == pytest.approx(9.0)
    assert torch.equal(seen["cond"], labels)
    assert seen["t"].shape == (4,)
    labels = torch.arange(4).repeat(2000)
    batch = Batch(torch.zeros(8000, 1), labels, torch.zeros(8000, 1))
    DenoisingMatching(process, coupling=PairedCoupling(), label_dropout=0.25)(Spy(), batch, draws())
    hidden = seen["cond"] == -1
    assert hidden.double().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(seen["cond"][~hidden], labels[~hidden])
    with pytest.raises(ValueError, match="label_dropout"):
        DenoisingMatching(process, label_dropout=1.5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_mean_the_same_loss_whatever_the_network_predicts(prediction) -> None:
    t = torch.linspace(0.1, 0.9, 9, dtype=D)
    schedule = VPLinearSchedule()
    v = schedule(t)
    snr = (2 * schedule.log_ratio(t)).exp()
    g2 = 2 * v.sigma * v.dsigma - 2 * v.dalpha / v.alpha * v.sigma**2
    beta = 0.1 + 19.9 * t
    torch.testing.assert_close(g2, beta)
    ratio = v.sigma / v.alpha
    # Each weight on the data's error, from its definition; an ε error is α/σ times a data error, a score's α/σ².
    on_data = {
        SigmaSquaredWeighting(): v.sigma**2 * (v.alpha / v.sigma**2) ** 2,
        MinSNRWeighting(5.0): snr.clamp(max=5.0),
        EDMWeighting(0.5): (ratio**2 + 0.25) / (ratio * 0.5) ** 2,
        LikelihoodWeighting(): g2 * (v.alpha / v.sigma**2) ** 2,
    }
    gain = {
        "DataPrediction()": torch.ones_like(t),
        "NoisePrediction()": v.sigma / v.alpha,
        "ScorePrediction()": v.sigma**2 / v.alpha,
        "VPrediction()": v.sigma,
        "VelocityPrediction()": v.sigma / (v.alpha * v.dsigma - v.sigma * v.dalpha),
    }[str(prediction)]
    for weighting, expected in on_data.items():
        torch.testing.assert_close(weighting(v, prediction), expected * gain**2)


def test_min_snr_on_noise_and_v_has_its_published_form() -> None:
    v = VPCosineSchedule()(torch.linspace(0.05, 0.95, 7, dtype=D))
    snr = (v.alpha / v.sigma) ** 2
    torch.testing.assert_close(MinSNRWeighting(5)(v, NoisePrediction()), snr.clamp(max=5) / snr)
    torch.testing.assert_close(MinSNRWeighting(5)(v, VPrediction()), snr.clamp(max=5) / (snr + 1))


def test_likelihood_weights_stay_finite_where_the_signal_vanishes() -> None:
    weight = LikelihoodWeighting()(LinearSchedule()(torch.ones(1)), VelocityPrediction())
    assert weight.tolist() == [0.0]


PROCESS = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=0.1, t_max=0.9)
LAWS = [UniformTimes(), StratifiedTimes(), LogitNormalTimes(0.3, 0.8), LogNormalNoiseTimes(0.0, 2.0)]


@pytest.mark.parametrize("times", LAWS)
def test_times_are_float64_within_the_range_and_repeatable(times) -> None:
    t = times(2000, PROCESS, draws(1))
    assert t.shape == (2000,)
    assert t.dtype == D
    assert t.min() >= 0.1
    assert t.max() <= 0.9
    assert torch.equal(t, times(2000, PROCESS, draws(1)))


def test_stratified_times_put_one_in_every_stratum_and_each_is_uniform() -> None:
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    assert (StratifiedTimes()(50, process, draws()) * 50).floor().sort().values.tolist() == list(range(50))
    first = torch.stack([StratifiedTimes()(50, process, draws(i))[7] for i in range(2000)])
    assert float(first.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(first.var()) == pytest.approx(1 / 12, rel=0.08)


def test_logit_normal_times_have_a_normal_logit() -> None:
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    logit = torch.logit(LogitNormalTimes(0.3, 0.8)(20_000, process, draws()))
    assert float(logit.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(logit.std()) == pytest.approx(0.8, abs=0.02)


def test_log_normal_noise_is_edms_law() -> None:
    process = GaussianProcess(EDMSchedule(1e-6, 1e6), DataPrediction())
    t = LogNormalNoiseTimes()(20_000, process, draws())
    log_sigma = process.schedule(t).sigma.log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=0.03)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=0.03)


@pytest.mark.parametrize(
    "build",
    [
        lambda: LogitNormalTimes(sd=0),
        lambda: LogNormalNoiseTimes(sd=-1),
        lambda: MinSNRWeighting(0),
        lambda: EDMWeighting(-math.inf),
    ],
)
def test_bad_parameters_are_errors(build) -> None:
    with pytest.raises(ValueError, match="above 0"):
        build()
