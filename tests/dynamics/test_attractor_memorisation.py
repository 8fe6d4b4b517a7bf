"""Whether attractors are training samples."""

from __future__ import annotations

import pytest
import torch

from isocline.dynamics.attractors import distinct_attractors, map_limits
from isocline.dynamics.memorisation import attractor_memorisation
from isocline.dynamics.system import IteratedMap
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import VESchedule

D = torch.float64


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def test_attractors_of_the_empirical_denoiser_are_the_training_samples() -> None:
    """With point masses at the data D(x) is their softmax-weighted mean, whose attractors at small σ are the data."""
    train, held_out = normal(30, 4, seed=0), normal(60, 4, seed=1)
    mixture = GaussianMixture(torch.ones(30), train, torch.zeros(30, 4))
    process = GaussianProcess(VESchedule(0.1, 1.0), DataPrediction())
    system = IteratedMap(Denoiser(mixture.network(process), process).data, 0.0)
    attractors = distinct_attractors(map_limits(system, normal(80, 4, seed=2), 500), 1e-3)
    verdict = attractor_memorisation(attractors.points, train, held_out)
    assert len(attractors.hits) > 10
    assert verdict.memorises
    assert verdict.share > 0.9
    assert verdict.ratio < 0.01
    torch.testing.assert_close(train[verdict.nearest], attractors.points, rtol=0, atol=0.05)


def test_fresh_samples_reach_the_level_as_often_as_it_says() -> None:
    """Over 400 worlds of one fresh point each, the share of p-values up to 0.1 is 0.1 within its interval."""
    hits = 0
    for world in range(400):
        everything = normal(60, 3, seed=world)
        verdict = attractor_memorisation(everything[:1], everything[1:31], everything[31:], level=0.1)
        hits += verdict.share == 1
    # p-values are multiples of 1/30: P(p <= 0.1) = 0.1; four standard errors of a binomial share.
    assert hits / 400 == pytest.approx(0.1, abs=4 * (0.09 / 400) ** 0.5)


def test_means_of_the_data_are_far_from_all_of_them() -> None:
    train, held_out = normal(200, 30, seed=0) + 5, normal(100, 30, seed=1) + 5
    points = torch.zeros(3, 30, dtype=D)
    verdict = attractor_memorisation(points, train, held_out)
    assert verdict.share == 0
    assert not verdict.memorises
    assert verdict.ratio > 1
    assert (verdict.p_values == 1).all()


def test_distances_are_per_entry_whatever_the_shape() -> None:
    train = torch.zeros(2, 2, 3)
    train[1] = 10.0
    held_out = train[:1] + torch.linspace(1, 2, 40)[:, None, None]
    verdict = attractor_memorisation(train[:1] + 0.5, train, held_out)
    assert float(verdict.distances) == pytest.approx(0.5)
    assert verdict.nearest.tolist() == [0]
    assert float(verdict.p_values) == pytest.approx(1 / 41)
    tied = attractor_memorisation(held_out[:1], train, held_out)
    assert float(tied.p_values) == pytest.approx(2 / 41)


@pytest.mark.parametrize(
    ("points", "held_out", "level", "match"),
    [
        (torch.zeros(0, 2), torch.ones(40, 2), 0.05, "points"),
        (torch.zeros(1, 2), torch.ones(40, 3), 0.05, "held_out"),
        (torch.full((1, 2), torch.nan), torch.ones(40, 2), 0.05, "not finite"),
        (torch.zeros(1, 2), torch.ones(5, 2), 0.05, "5 held-out"),
        (torch.zeros(1, 2), torch.zeros(40, 2), 0.05, "split"),
        (torch.zeros(1, 2), torch.ones(40, 2), 1.0, "level"),
    ],
)
def test_bad_input_is_named(points, held_out, level: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        attractor_memorisation(points, torch.zeros(3, 2), held_out, level=level)
