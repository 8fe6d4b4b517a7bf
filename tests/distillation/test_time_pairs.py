"""Laws of the pairs of times, their weights and where their maps lead."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distillation.known_flow import LINEAR, D

from isocline.distillation.curriculum import ConstantCurriculum, DoublingCurriculum
from isocline.distillation.destination import DataDestination, PhaseDestination, RandomDestination
from isocline.distillation.interval_law import LogNormalIntervals, StratifiedIntervals, UniformIntervals
from isocline.distillation.pair_weighting import InverseGapWeighting, UniformPairWeighting
from isocline.distillation.time_pairs import GridPairs, ShrinkingPairs, TimePair
from isocline.objectives.time_sampling import LogNormalNoiseTimes
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import PowerGrid
from isocline.processes.prediction import NoisePrediction
from isocline.processes.probability_flow import NoiseRatioVariable
from isocline.processes.schedule import VPLinearSchedule

VP = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("process", [LINEAR, VP], ids=["linear", "vp"])
@pytest.mark.parametrize("law", [StratifiedIntervals(), UniformIntervals(), LogNormalIntervals()])
def test_grid_pairs_are_neighbours_that_cover_the_flow_down_to_zero(process, law) -> None:
    pairs = GridPairs(ConstantCurriculum(4), law, PowerGrid())(5000, process, 0, draws())
    highs, lows = pairs.high.unique(), pairs.low.unique()
    assert len(highs) == len(lows) == 4
    assert float(highs[-1]) == process.t_max
    assert float(lows[0]) == 0.0
    assert torch.equal(lows[1:], highs[:-1])
    assert torch.equal(torch.searchsorted(highs, pairs.high), torch.searchsorted(lows, pairs.low))


def test_a_stratified_batch_holds_every_interval_equally_often() -> None:
    index = StratifiedIntervals()(64, LINEAR, torch.linspace(1, 0, 9, dtype=D), draws())
    assert torch.equal(index.bincount(), torch.full((8,), 8))


def test_log_normal_intervals_have_the_masses_of_the_articles_error_functions() -> None:
    times = torch.linspace(1, 0, 6, dtype=D)
    ratios = times / (1 - times)
    mass = torch.special.erf((ratios.log() + 1.1) / (math.sqrt(2) * 2.0))
    expected = (mass[:-1] - mass[1:]) / (mass[:-1] - mass[1:]).sum()
    law = LogNormalIntervals(-1.1, 2.0)
    torch.testing.assert_close(law.probabilities(LINEAR, times), expected, rtol=1e-9, atol=1e-12)
    found = law(200_000, LINEAR, times, draws()).bincount(minlength=5) / 200_000
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.005)
    with pytest.raises(ValueError, match="sd=0"):
        LogNormalIntervals(sd=0)


def test_shrinking_pairs_have_the_articles_ratio_in_its_own_time() -> None:
    variable = NoiseRatioVariable()
    pairs = ShrinkingPairs(800, stages=8, times=LogNormalNoiseTimes(-1.1, 2.0), variable=variable)
    for step, stage in ((0, 1), (99, 1), (100, 2), (450, 5), (10**6, 8)):
        high, low = pairs(1000, LINEAR, step, draws())
        t, r = (variable.position(LINEAR, time) for time in (high, low))
        expected = t * (1 - (1 + 8 / (1 + t.exp())) / 2**stage).clamp(min=0)
        torch.testing.assert_close(r, expected, rtol=1e-9, atol=1e-12)
        assert pairs.intervals(step) == 2**stage


def test_shrinking_pairs_begin_as_diffusion_training_and_reach_the_noisiest_time() -> None:
    pairs = ShrinkingPairs(80, q=4.0)
    # (1 + 8/(1 + e^0))/4 > 1 next to data: the first pairs there end at data itself.
    first, last = (pairs(1000, LINEAR, step, draws()) for step in (0, 79))
    assert float(first.low[first.high < 0.3].abs().max()) == 0.0
    assert float(first.high.max()) > 0.99
    assert bool((last.low > 0).all() and (last.low < last.high).all())
    with pytest.raises(ValueError, match="q=1"):
        ShrinkingPairs(10, q=1.0)


def test_the_inverse_gap_is_measured_on_the_linear_path_or_in_the_noise_ratio() -> None:
    pair = TimePair(torch.tensor([0.5, 0.8], dtype=D), torch.tensor([0.25, 0.0], dtype=D))
    torch.testing.assert_close(InverseGapWeighting()(LINEAR, pair), torch.tensor([4.0, 1.25], dtype=D))
    in_ratio = InverseGapWeighting(NoiseRatioVariable())(LINEAR, pair)
    torch.testing.assert_close(in_ratio, torch.tensor([1 / (1 - 1 / 3), 0.25], dtype=D))
    assert UniformPairWeighting()(LINEAR, pair) is None
    nowhere = TimePair(pair.high, pair.high)
    assert bool(InverseGapWeighting()(LINEAR, nowhere).isfinite().all())


@pytest.mark.parametrize("process", [LINEAR, VP], ids=["linear", "vp"])
def test_destinations_are_data_any_earlier_time_or_the_lower_edge_of_the_phase(process) -> None:
    pair = GridPairs(DoublingCurriculum(8, 8))(4000, process, 0, draws())
    assert not DataDestination()(process, pair, draws()).any()
    anywhere = RandomDestination()(process, pair, draws())
    assert bool((anywhere <= pair.low).all())
    share = (anywhere / pair.low)[pair.low > 0]
    assert float(share.mean()) == pytest.approx(0.5, abs=0.02)

    phases = PhaseDestination(4)
    edges, below = phases.edges(process), phases(process, pair, draws())
    assert (len(edges), float(edges[0]), float(edges[-1])) == (5, process.t_max, 0.0)
    expected = torch.stack([edges[edges < high - 1e-9].max() for high in pair.high])
    torch.testing.assert_close(below, expected, rtol=0, atol=1e-12)
    # Two intervals to a phase: no pair leaves its own.
    assert float((below - pair.low).max()) < 1e-12


def test_one_phase_is_the_way_to_data_and_every_edge_ends_its_phase() -> None:
    times = torch.tensor([0.0, 0.1, 0.25, 0.25 + 1e-16, 0.26, 0.75, 1.0], dtype=D)
    pair = TimePair(times, times)
    assert not PhaseDestination(1)(LINEAR, pair, draws()).any()
    expected = torch.tensor([0, 0, 0, 0, 0.25, 0.5, 0.75], dtype=D)
    torch.testing.assert_close(PhaseDestination(4)(LINEAR, pair, draws()), expected)
    with pytest.raises(ValueError, match="phases=0"):
        PhaseDestination(0)
