"""Readings of subjects about which everything is known: a mixture of two images, linear flows, exact text models."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isocline.datasets.quantisation import to_float
from isocline.dynamics.depth_field import layer_field
from isocline.dynamics.flow_field import VARIABLE, flow_start, gaussian_field
from isocline.dynamics.readings.attractors import AttractorsReading
from isocline.dynamics.readings.base import ImageSide, Subject, TextSide
from isocline.dynamics.readings.commitment import CommitmentReading
from isocline.dynamics.readings.continuation import ContinuationReading
from isocline.dynamics.readings.decision import DecisionReading
from isocline.dynamics.readings.depth import DepthReading
from isocline.dynamics.readings.fixed_points import FixedPointsReading
from isocline.dynamics.readings.geometry import GeometryReading
from isocline.dynamics.readings.lyapunov import LyapunovReading
from isocline.dynamics.readings.settings import AnalysisSettings
from isocline.dynamics.trained_field import TrainedField
from isocline.metrics.judge_image import ImageJudge
from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.transformer import TokenTransformer
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.processes.token_schedule import LinearSurvival
from isocline.randomness import sample_noise
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.samplers.discrete import AncestralSampler

PROCESS = GaussianProcess(LinearSchedule(), DataPrediction(), t_min=1e-3)
EVENT = (1, 4, 4)
LEVELS = torch.tensor([63, 192], dtype=torch.uint8)  # symmetric about 0, near ±1/2
MODES = to_float(LEVELS)[:, None].expand(2, 16)
WEIGHTS = torch.tensor([0.25, 0.75])


class Images(nn.Module):
    """The exact denoiser of the mixture, on images."""

    def __init__(self, variance: float, weights: Tensor) -> None:
        super().__init__()
        self.inner = GaussianMixture(weights, MODES, torch.full_like(MODES, variance)).network(PROCESS)
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor, cond: None = None) -> Tensor:
        return self.inner(t, x.flatten(1), cond).reshape(x.shape)


class Brightness(ImageJudge):
    """Class 1 for a bright image, 0 for a dark one."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def logits(self, images: Tensor) -> Tensor:
        bright = images.float().flatten(1).mean(1) - 127.5
        return torch.stack([-bright, bright], 1)


def two_images(variance: float = 1e-4, weights: Tensor = WEIGHTS) -> Subject:
    network = Images(variance, weights)
    denoiser = Denoiser(network, PROCESS)
    flow = TrainedField(
        name="two",
        kind="image",
        network=network,
        make=lambda other: gaussian_field(Denoiser(other, PROCESS)),
        start=VARIABLE.start(PROCESS),
        end=VARIABLE.end(PROCESS),
        starts=lambda count, seed: flow_start(PROCESS, sample_noise(seed, "s", range(count), EVENT).double()),
        denoiser=denoiser,
    )
    pixels = LEVELS.reshape(2, 1, 1, 1).expand(2, *EVENT)
    unseen = torch.randint(256, (60, *EVENT), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    side = ImageSide(Brightness(), pixels, unseen, lambda data: data)
    return Subject("two", network, PROCESS, flow=flow, images=side)


def linear(rates: list[float], kind: str = "density", readout: Callable[[Tensor], Tensor] | None = None) -> Subject:
    network = nn.Linear(len(rates), len(rates), bias=False).double()
    network.weight = nn.Parameter(torch.diag(torch.tensor(rates, dtype=torch.float64)))
    field = TrainedField(
        name="linear",
        kind=kind,
        network=network,
        make=lambda other: lambda t, x, cond=None: other(x),
        start=0.0,
        end=1.0,
        starts=lambda count, seed: sample_noise(seed, "s", range(count), (len(rates),)).double(),
        readout=readout,
    )
    return Subject("linear", network, flow=field)


def test_two_images_are_the_attractors_with_their_weights_as_basins_and_are_found_to_be_copies() -> None:
    found = AttractorsReading(samples=200, times=(0.3, 0.95), steps=30, tolerance=1e-3).read(two_images(), 0)
    assert found.metrics["distinct"]["noise_0_3"] == 2
    assert found.metrics["settled"]["noise_0_3"] == 1.0
    low = [row for row in found.tables["attractors"] if row["noise"] == 0.3]
    assert {row["class"]: row["distance_to_training"] for row in low} == {0: 0.0, 1: 0.0}
    for row in low:
        assert row["basin_low"] < float(WEIGHTS[int(row["class"])]) < row["basin_high"]
        assert row["p_value"] == pytest.approx(1 / 61)
    assert found.metrics["copied"]["mean"] > 0.5
    sheet = found.pictures["attractors"]
    assert torch.equal(sheet[0, :2], sheet[1, :2])


def test_where_noise_hides_which_image_it_was_one_attractor_is_left() -> None:
    """Two modes at ±m merge where α² m² d / σ² falls below the bifurcation: at a large share of noise."""
    found = AttractorsReading(samples=20, times=(0.9,), tolerance=1e-3).read(two_images(), 0)
    assert found.metrics["distinct"] == {"noise_0_9": 1}
    assert found.metrics["largest_basin"] == {"noise_0_9": 1.0}


def test_the_mean_of_two_equal_images_ceases_to_attract_where_the_closed_form_says() -> None:
    """D(α y) = m tanh(α² m·y/σ²) has slope (α |m|/σ)² at 0, which is 1 at σ/α = |m|."""
    size = float(MODES[1].norm())
    times = (0.9, 0.8, 0.7, 0.65, 0.6)
    reading = ContinuationReading(samples=3, times=times, iterations=300, products=8)
    found = reading.read(two_images(0.0, torch.ones(2)), 0)
    expected = [(size * (1 - s) / s) ** 2 - 1 for s in times]
    assert [row["leading_growth"] for row in found.tables["continuation"]] == pytest.approx(expected, abs=2e-3)
    assert found.metrics["splits_at"] == pytest.approx(size / (1 + size), abs=0.005)
    assert found.metrics["followed"] == 1.0
    assert "splits_at" not in reading.__class__(samples=3, times=(0.9, 0.8)).read(two_images(), 0).metrics


def test_the_fixed_points_that_iteration_finds_attract_and_newton_finds_the_saddle_of_a_small_field() -> None:
    found = FixedPointsReading(samples=12, times=(0.3,)).read(two_images(), 0)
    assert found.metrics["distinct"]["at_0_3"] >= 2
    assert found.metrics["converged"]["at_0_3"] == 1.0
    rest = FixedPointsReading(samples=4, times=(0.5,)).read(linear([1.0, -2.0]), 0)
    assert rest.metrics == {"distinct": {"at_0_5": 1}, "attracting": {"at_0_5": 0}, "converged": {"at_0_5": 1.0}}
    (row,) = rest.tables["fixed_points"]
    assert row["unstable_directions"] == 1
    assert row["leading_growth"] == pytest.approx(1.0)


def test_the_class_of_two_images_is_settled_on_the_way_and_in_the_state_at_the_end() -> None:
    found = DecisionReading(samples=300, steps=20).read(two_images(), 1)
    first, last = found.tables["decision"][0], found.tables["decision"][-1]
    assert (first["t"], last["t"]) == (1.0, 0.0)
    assert last["guess_agrees"] == last["probe_agrees"] == last["decided"] == 1.0
    assert 0.2 < found.metrics["decision_time"].mean < 0.98
    # Noise has decided before the model shows it: the flow is deterministic, and its basins nearly half-spaces.
    assert found.metrics["probe_agrees_at_start"].mean > 0.85
    assert found.metrics["largest_class"] == pytest.approx(0.75, abs=0.08)


def test_a_classifier_is_decided_where_its_own_head_changes_for_the_last_time() -> None:
    """x' = diag(2, -2) x from (a, b): the larger entry changes from the second to the first at t = ln(|b/a|)/4."""
    subject = linear([2.0, -2.0], "classifier", readout=lambda x: x.abs())
    found = DecisionReading(samples=50, steps=200).read(subject, 3)
    assert subject.flow is not None
    starts = subject.flow.starts(50, 3).abs()
    exact = (starts[:, 1] / starts[:, 0]).log() / 4
    exact = torch.where(exact > 1, 0.0, exact).clamp(min=0)
    assert found.metrics["decision_time"].mean == pytest.approx(float(exact.mean()), abs=0.006)


def test_trajectories_of_a_rotation_are_planar_and_go_by_half_a_circle() -> None:
    network = nn.Linear(2, 2, bias=False).double()
    network.weight = nn.Parameter(torch.tensor([[0.0, -math.pi], [math.pi, 0.0]], dtype=torch.float64))
    subject = linear([0.0, 0.0])
    field = TrainedField(
        "turn", "density", network, lambda other: lambda t, x, c=None: other(x), 0.0, 1.0, subject.flow.starts
    )
    found = GeometryReading(samples=5, steps=100).read(Subject("turn", network, flow=field), 0)
    assert found.metrics["arc_over_chord"].mean == pytest.approx(math.pi / 2, rel=1e-3)
    assert found.metrics["turning"].mean == pytest.approx(math.pi, rel=0.02)
    assert found.metrics["planarity"].mean == pytest.approx(1.0)
    assert found.tables["axes"][-1]["all_paths"] == pytest.approx(1.0)


def test_the_exponents_of_a_linear_field_are_its_rates() -> None:
    found = LyapunovReading(samples=3, exponents=2, steps=200).read(linear([0.5, -1.0, -3.0]), 0)
    assert [row["exponent"] for row in found.tables["lyapunov"]] == pytest.approx([0.5, -1.0], abs=1e-4)
    assert found.metrics["largest"].mean == pytest.approx(0.5, abs=1e-4)


def test_a_classifier_that_is_no_flow_is_read_in_depth() -> None:
    """Layers x + A_l x with diagonal A_l stretch by the product of 1 + a."""
    rates = torch.tensor([[0.5, -0.5], [1.0, -0.2]], dtype=torch.float64)
    depth = TrainedField(
        name="resnet",
        kind="depth",
        network=nn.Linear(2, 2).double(),
        make=lambda other: layer_field([lambda x, a=a: a * x for a in rates]),
        start=0.0,
        end=2.0,
        starts=lambda count, seed: sample_noise(seed, "s", range(count), (2,)).double(),
    )
    found = LyapunovReading(samples=3, exponents=2).read(Subject("resnet", nn.Identity(), None, depth=depth), 0)
    assert found.metrics["largest"].mean == pytest.approx(math.log(1.5 * 2.0) / 2, abs=1e-9)
    assert [row["exponent"] for row in found.tables["lyapunov"]][1] == pytest.approx(math.log(0.5 * 0.8) / 2, abs=1e-9)


class Even(nn.Module):
    """Logits that know nothing but that every token is 3."""

    vocab_size = 8

    def forward(self, t, z, cond=None):
        return 9.0 * nn.functional.one_hot(torch.full_like(z, 3), self.vocab_size).double()


TEXT = TextSide(torch.arange(7).repeat(4, 2), torch.randint(7, (16, 12), generator=torch.Generator().manual_seed(2)))


def test_left_to_right_is_found_to_be_left_to_right_and_a_certain_law_to_have_been_so_from_the_start() -> None:
    subject = Subject("ar", Even(), None, AutoregressiveSampler(), text=TEXT)
    found = CommitmentReading(samples=6).read(subject, 0)
    assert found.metrics["left_to_right"].mean == pytest.approx(1.0)
    assert found.metrics["commitment_time"].mean == pytest.approx(sum(1 - (i + 1) / 12 for i in range(12)) / 12)
    kernel = AbsorbingKernel(8, LinearSurvival())
    masked = Subject("masked", Even(), kernel, AncestralSampler(temperature=0.0), text=TEXT)
    found = CommitmentReading(samples=40, nfe=8).read(masked, 0)
    assert found.metrics["law_commitment_time"].mean == 1.0
    assert found.metrics["commitment_time"].mean == pytest.approx(sum(i / 8 for i in range(8)) / 8, abs=0.04)
    assert [row["law_committed"] for row in found.tables["commitment"]] == [1.0] * 9


def test_a_block_that_adds_nothing_is_found_to_be_prunable() -> None:
    torch.manual_seed(0)
    network = TokenTransformer(8, 12, 16, 3, 2, time_conditioned=False).eval().requires_grad_(False)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    block = network.trunk.blocks[1]
    for part in (block.attention.out, block.mlp[-1]):
        for parameter in part.parameters():
            nn.init.zeros_(parameter)
    kernel = AbsorbingKernel(8, LinearSurvival())
    found = DepthReading(samples=16).read(Subject("masked", network, kernel, text=TEXT), 0)
    rises = {name: estimate.mean for name, estimate in found.metrics["loss_rise"].items()}
    assert abs(rises["block_2"]) < 1e-5
    assert min(abs(rises["block_1"]), abs(rises["block_3"])) > 0.02
    assert [row["step"] for row in found.tables["blocks"]][1] == 0
    assert len(found.tables["lens"]) == 4
    assert found.metrics["prunable_blocks"] == sum(rise < 0.02 for rise in rises.values())
    assert found.tables["lens"][-1]["divergence"] == 0.0


def test_what_makes_no_sense_of_a_model_says_why() -> None:
    images, text = two_images(), Subject("ar", Even(), None, AutoregressiveSampler(), text=TEXT)
    assert "writes no tokens" in (CommitmentReading().refusal(images) or "")
    assert "names no tokens" in (DepthReading().refusal(images) or "")
    assert "no denoiser" in (AttractorsReading().refusal(text) or "")
    assert "no vector field" in (LyapunovReading().refusal(text) or "")
    assert "judge" in (DecisionReading().refusal(text) or "")
    block = BlockTransformer(8, 12, 16, 2, 2, block_length=4)
    assert "two streams" in (DepthReading().refusal(Subject("block", block, text=TEXT)) or "")
    assert AttractorsReading().refusal(images) is None


def test_readings_are_chosen_by_name_and_sized_together() -> None:
    settings = AnalysisSettings().only(["Fixed-Points", "geometry"])
    assert list(settings.readings) == ["geometry", "fixed_points"]
    assert {reading.samples for reading in settings.with_samples(3).readings.values()} == {3}
    with pytest.raises(ValueError, match=r"no reading 'geometri'.*decision"):
        AnalysisSettings().only(["geometri"])
    with pytest.raises(ValueError, match="empty"):
        AnalysisSettings({})
    with pytest.raises(ValueError, match="samples = 0"):
        GeometryReading(samples=0)
    with pytest.raises(ValueError, match="times"):
        AttractorsReading(times=(1.5,))
