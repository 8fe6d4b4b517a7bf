"""Laws of time with less variance: antithetic pairs, and importance sampling that leaves the loss unbiased."""

from __future__ import annotations

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import AntitheticTimes, LogRatioTimes, StratifiedTimes, UniformTimes
from isocline.objectives.weighting import (
    EDMWeighting,
    ImportanceWeighting,
    LikelihoodWeighting,
    SigmaSquaredWeighting,
    UniformWeighting,
)
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, PreconditionedPrediction, VelocityPrediction
from isocline.processes.schedule import EDMSchedule, LinearSchedule, VESchedule, VPLinearSchedule

D = torch.float64
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=0.001)
VE = GaussianProcess(VESchedule(), NoisePrediction())
CUT = GaussianProcess(LinearSchedule(), NoisePrediction(), t_min=0.01, t_max=0.99)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("process", [VP, VE, CUT])
def test_likelihood_weights_become_one_constant_on_the_noise(process) -> None:
    weighting = ImportanceWeighting(LikelihoodWeighting(), process)
    weights = weighting(process.schedule(LogRatioTimes()(500, process, draws())), NoisePrediction())
    ends = process.schedule.log_ratio(torch.tensor([process.t_min, process.t_max], dtype=D))
    expected = 2 * (ends[0] - ends[1]) / (process.t_max - process.t_min)
    torch.testing.assert_close(weights, expected.expand(500), rtol=1e-8, atol=0)


@pytest.mark.parametrize("process", [VP, VE, CUT])
@pytest.mark.parametrize("weighting", [UniformWeighting(), SigmaSquaredWeighting(), LikelihoodWeighting()])
def test_the_expected_loss_is_that_of_uniform_times(process, weighting) -> None:
    def error(t: torch.Tensor) -> torch.Tensor:
        # That of the exact predictor of N(0, 0.3) data: Var(ε | x) = 0.3 α²/(0.3 α² + σ²).
        v = process.schedule(t)
        return 0.3 * v.alpha**2 / (0.3 * v.alpha**2 + v.sigma**2)

    def loss(weighting, t: torch.Tensor) -> torch.Tensor:
        weight = weighting(process.schedule(t), NoisePrediction())
        return (error(t) if weight is None else weight * error(t)).mean()

    n = 200_000
    exact = loss(weighting, process.t_min + (process.t_max - process.t_min) * (torch.arange(n, dtype=D) + 0.5) / n)
    found = loss(ImportanceWeighting(weighting, process), LogRatioTimes(StratifiedTimes())(n, process, draws(3)))
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=0)


def test_importance_sampling_and_its_stratified_draws_have_less_variance() -> None:
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1, 2), 0.3))
    network, data = mixture.network(VP), mixture.sample(64, draws(1))

    def variance(weighting, times) -> float:
        objective = DenoisingMatching(VP, weighting, times)
        return float(torch.stack([objective(network, Batch(data), draws(i)).total for i in range(200)]).var())

    importance = ImportanceWeighting(LikelihoodWeighting(), VP)
    plain = variance(LikelihoodWeighting(), UniformTimes())
    sampled = variance(importance, LogRatioTimes())
    stratified = variance(importance, LogRatioTimes(StratifiedTimes()))
    assert stratified < 0.8 * sampled
    assert sampled < 0.1 * plain


def test_antithetic_times_pair_up_and_are_uniform() -> None:
    process = GaussianProcess(LinearSchedule(), VelocityPrediction(), t_min=0.2, t_max=0.8)
    t = AntitheticTimes()(9, process, draws())
    assert t.shape == (9,)
    torch.testing.assert_close(t[:4] + t[5:], torch.ones(4, dtype=D))
    many = AntitheticTimes()(20_000, process, draws(2))
    assert float(many.min()) >= 0.2
    assert float(many.max()) <= 0.8
    assert float(many.mean()) == pytest.approx(0.5, abs=1e-12)
    assert float(many.var()) == pytest.approx(0.36 / 12, rel=0.03)


def test_antithetic_draws_halve_more_than_half_of_a_monotone_s_variance() -> None:
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    means = [
        torch.stack([times(2, process, draws(i)).exp().mean() for i in range(2000)]).var()
        for times in (UniformTimes(), AntitheticTimes())
    ]
    # exp on [0, 1]: 0.1210 against 0.0039 (the textbook's example).
    assert float(means[0]) == pytest.approx(0.1210, rel=0.1)
    assert float(means[1]) == pytest.approx(0.0039, rel=0.1)


def test_infinite_ends_are_named() -> None:
    process = GaussianProcess(LinearSchedule(), NoisePrediction(), t_max=0.9)
    with pytest.raises(ValueError, match=r"t_min=0\.0.*set t_min=0\.001"):
        LogRatioTimes()(4, process, draws())


def test_the_exact_residual_minimises_edm_s_loss() -> None:
    process = GaussianProcess(EDMSchedule(), PreconditionedPrediction(0.6))
    mixture = GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[1.0], [-0.5]]), torch.tensor([[0.04], [0.09]]))
    exact, data = mixture.network(process), mixture.sample(50_000, draws(1))

    def loss(shift: float, weighting) -> float:
        def network(t, x, cond=None):
            return exact(t, x) + shift * (1 + (x / (1 + x.abs())))

        return float(DenoisingMatching(process, weighting, StratifiedTimes())(network, Batch(data), draws(2)).total)

    low, middle, high = (loss(shift, None) for shift in (-0.5, 0.0, 0.5))
    assert low + high - 2 * middle > 0
    assert abs(low - high) < 0.04 * (low + high - 2 * middle)
    assert loss(0.1, EDMWeighting(0.6)) == pytest.approx(loss(0.1, None), rel=1e-9)
