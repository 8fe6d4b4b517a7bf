"""Basin shares of flows and maps."""

from __future__ import annotations

import pytest
import torch

from isocline.dynamics.attractors import distinct_attractors, map_limits
from isocline.dynamics.basins import basin_shares, flow_basins, nearest_attractor
from isocline.dynamics.system import IteratedMap
from isocline.metrics.uncertainty import wilson_interval
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VESchedule

D = torch.float64
MEANS = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]], dtype=D)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def test_basins_of_the_probability_flow_from_noise_are_the_true_weights() -> None:
    weights = torch.tensor([0.5, 0.2, 0.3])
    process = GaussianProcess(LinearSchedule(), VelocityPrediction(), t_min=1e-3)
    mixture = GaussianMixture(weights, MEANS, torch.full((3, 2), 0.02))
    velocity = Denoiser(mixture.network(process), process).velocity
    found = flow_basins(velocity, normal(1500, 2), 1.0, 1e-3, MEANS, radius=1.0, confidence=0.999)
    assert found.undecided.count == 0
    for basin, weight in zip(found.basins, weights.tolist(), strict=True):
        assert basin.low <= weight <= basin.high
        assert basin.high - basin.low < 0.09
    # The starts nearest to each mode would give other shares: the test can tell.
    nearest = basin_shares(nearest_attractor(normal(1500, 2), MEANS), 3, 0.999)
    assert not all(b.low <= w <= b.high for b, w in zip(nearest.basins, weights.tolist(), strict=True))


def test_the_frozen_denoisers_basins_are_half_spaces_between_two_equal_modes() -> None:
    """By symmetry the separatrix of two equal isotropic modes is the plane half way between them."""
    means = torch.tensor([[-1.0, -0.5], [1.0, 0.5]], dtype=D)
    mixture = GaussianMixture(torch.ones(2), means, torch.full((2, 2), 0.01))
    process = GaussianProcess(VESchedule(0.3, 1.0), DataPrediction())
    system = IteratedMap(Denoiser(mixture.network(process), process).data, 0.0)
    starts = 2 * normal(400, 2) + torch.tensor([0.8, 0.0], dtype=D)
    attractors = distinct_attractors(map_limits(system, starts, 300), 0.05)
    assert len(attractors.hits) == 2
    assert (attractors.members >= 0).all()
    right = nearest_attractor(means[1:], attractors.points)
    assert torch.equal(attractors.members == right, starts @ (means[1] - means[0]) > 0)
    shares = basin_shares(attractors.members, 2)
    truth = float(torch.special.ndtr(torch.tensor(0.8 * 2 / (2 * 5**0.5))))
    assert shares.basins[int(right)].low <= truth <= shares.basins[int(right)].high


def test_shares_count_what_ended_nowhere() -> None:
    shares = basin_shares(torch.tensor([0, 2, -1, 0, 0]), 3)
    assert [basin.count for basin in shares.basins] == [3, 0, 1]
    assert shares.undecided.count == 1
    assert (shares.basins[0].low, shares.basins[0].high) == wilson_interval(3, 5)


def test_the_nearest_attractor_may_be_too_far() -> None:
    ends = torch.tensor([[0.1, 0.0], [5.0, 5.0], [torch.nan, 0.0], [2.9, 1.0]], dtype=D)
    points = torch.tensor([[0.0, 0.0], [3.0, 1.0]], dtype=D)
    assert nearest_attractor(ends, points, 0.5).tolist() == [0, -1, -1, 1]
    assert nearest_attractor(ends, points).tolist() == [0, 1, -1, 1]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: basin_shares(torch.tensor([0, 3]), 3), "members"),
        (lambda: basin_shares(torch.zeros(0, dtype=torch.int64), 3), "members"),
        (lambda: nearest_attractor(torch.zeros(2, 3), torch.zeros(0, 3)), "points"),
        (lambda: nearest_attractor(torch.zeros(2, 3), torch.zeros(1, 2)), "points"),
    ],
)
def test_bad_input_is_named(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
