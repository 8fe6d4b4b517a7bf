"""Laws of jumps, and the distance under which MeanFlow is trained."""

from __future__ import annotations

import pytest
import torch

from isocline.distillation.adaptive_distance import AdaptiveDistance
from isocline.distillation.distance import SquaredDistance
from isocline.distillation.jump_law import DyadicJumps, SortedJumps
from isocline.objectives.time_sampling import UniformTimes
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule

D = torch.float64
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-2, t_max=0.9)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("process", [LINEAR, VP])
@pytest.mark.parametrize("law", [SortedJumps(still=0.3), SortedJumps(UniformTimes(), 0.3), DyadicJumps(5, 0.3)])
def test_jumps_go_down_within_the_process_and_the_still_ones_come_last(process: GaussianProcess, law) -> None:
    jumps = law(1000, process, draws())
    assert jumps.moving == 700
    assert (jumps.end[:700] < jumps.start[:700]).all()
    assert torch.equal(jumps.end[700:], jumps.start[700:])
    assert jumps.start.min() >= process.t_min
    assert jumps.start.max() <= process.t_max
    assert jumps.end.min() >= 0
    assert jumps.start.dtype == D


def test_the_two_times_of_a_sorted_jump_are_the_larger_and_the_smaller_of_two_draws() -> None:
    jumps = SortedJumps(UniformTimes(), 0.0)(40_000, LINEAR, draws())
    assert float(jumps.start.mean()) == pytest.approx(2 / 3, abs=0.005)
    assert float(jumps.end.mean()) == pytest.approx(1 / 3, abs=0.005)
    # Where t_min > 0 ends reach data all the same.
    assert float(SortedJumps(UniformTimes(), 0.0)(40_000, VP, draws()).end.min()) < 1e-3


def test_dyadic_jumps_lie_on_their_own_grid_and_every_length_is_equally_likely() -> None:
    law = DyadicJumps(4, 0.0)
    jumps = law(8000, LINEAR, draws())
    length = jumps.start - jumps.end
    assert torch.equal(jumps.end, (jumps.end / length).round() * length)
    lengths, counts = length.unique(return_counts=True)
    assert lengths.tolist() == [1 / 8, 1 / 4, 1 / 2, 1]
    assert lengths[0] == law.shortest(LINEAR)
    assert (counts - 2000).abs().max() < 4 * (8000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("make", [lambda: SortedJumps(still=1.5), lambda: DyadicJumps(0)])
def test_laws_that_cannot_be_are_refused(make) -> None:
    with pytest.raises(ValueError, match=r"still=1\.5|levels=0"):
        make()


def test_the_adaptive_distance_has_the_gradient_of_a_logarithm_and_without_power_is_the_square() -> None:
    difference = torch.randn(5, 3, 2, generator=draws(), dtype=D).requires_grad_()
    square = SquaredDistance()(difference)
    assert torch.equal(AdaptiveDistance(power=0.0)(difference), square)
    (wanted,) = torch.autograd.grad((square + 1e-3).log().sum(), difference, retain_graph=True)
    (found,) = torch.autograd.grad(AdaptiveDistance()(difference).sum(), difference)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="offset=0"):
        AdaptiveDistance(offset=0)
