"""Normal laws of the training time by quantiles of stratified draws: the same law, a loss of less variance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from isocline.datasets.batch import Batch
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import (
    AbstractTimes,
    AntitheticTimes,
    LogitNormalTimes,
    LogNormalNoiseTimes,
    StratifiedTimes,
)
from isocline.objectives.weighting import EDMWeighting
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, VelocityPrediction
from isocline.processes.schedule import EDMSchedule, LinearSchedule

LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction(), t_min=0.1, t_max=0.9)
EDM = GaussianProcess(EDMSchedule(), DataPrediction())
UNITS = [StratifiedTimes(), AntitheticTimes()]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normals(times: AbstractTimes, process: GaussianProcess, t: Tensor) -> Tensor:
    """What the law makes standard normal."""
    if isinstance(times, LogitNormalTimes):
        unit = (t - process.t_min) / (process.t_max - process.t_min)
        return (torch.logit(unit) - times.mean) / times.sd
    assert isinstance(times, LogNormalNoiseTimes)
    return (-process.schedule.log_ratio(t) - times.mean) / times.sd


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("make", "process"),
    [(lambda u: LogitNormalTimes(0.3, 0.8, u), LINEAR), (lambda u: LogNormalNoiseTimes(unit=u), EDM)],
)
def test_each_time_has_the_law_that_independent_draws_have(make, process: GaussianProcess, unit: AbstractTimes) -> None:
    times, n = make(unit), 4000
    every = torch.cat([normals(times, process, times(8, process, draws(seed))) for seed in range(n // 8)])
    # Kolmogorov-Smirnov at a level of 1e-6, which dependence within a batch makes conservative.
    empirical = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    distance = (torch.special.ndtr(every.sort().values) - empirical).abs().max()
    assert float(distance) < math.sqrt(-0.5 * math.log(5e-7) / n)


def test_there_is_one_time_in_every_stratum_of_equal_probability() -> None:
    for times, process in (
        (LogitNormalTimes(-0.5, 1.2, StratifiedTimes()), LINEAR),
        (LogNormalNoiseTimes(unit=StratifiedTimes()), EDM),
    ):
        shares = torch.special.ndtr(normals(times, process, times(40, process, draws(4))))
        assert (shares * 40).floor().sort().values.tolist() == list(range(40))


def test_the_ends_of_the_range_of_quantiles_are_finite_times() -> None:
    class Ends(AbstractTimes):
        def __call__(self, n: int, process: GaussianProcess, generator: torch.Generator) -> Tensor:
            return torch.tensor([process.t_min, process.t_max], dtype=torch.float64)

    for times, process in ((LogitNormalTimes(unit=Ends()), LINEAR), (LogNormalNoiseTimes(unit=Ends()), EDM)):
        t = times(2, process, draws())
        assert process.t_min <= float(t[0]) < float(t[1]) <= process.t_max


def test_the_loss_of_a_batch_has_the_same_mean_and_less_variance_with_stratified_draws() -> None:
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 4), torch.full((1, 4), 0.25))
    network = mixture.network(EDM)
    data = mixture.sample(32, draws(9))

    class Wrong(torch.nn.Module):
        """An error that depends on the time, so that times matter."""

        def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
            return network(t, x) + EDM.schedule(t).sigma.clamp(max=3.0)[:, None]

    def losses(times: AbstractTimes) -> Tensor:
        objective = DenoisingMatching(EDM, EDMWeighting(), times)

        return torch.stack([objective(Wrong(), Batch(data), draws(100 + seed)).total for seed in range(300)])

    plain, better = losses(LogNormalNoiseTimes()), losses(LogNormalNoiseTimes(unit=StratifiedTimes()))
    assert abs(float(plain.mean() - better.mean())) < 4 * float(((plain.var() + better.var()) / 300).sqrt())
    assert float(better.var()) < 0.7 * float(plain.var())
