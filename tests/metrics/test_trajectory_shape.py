"""Straightness and total curvature against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.metrics.trajectory_evaluation import flow_shape
from isocline.metrics.trajectory_shape import straightness, total_curvature, trajectory_shape
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.randomness import derive_seed, sample_noise
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.solvers.explicit import Euler

D = torch.float64
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())


def arc(angle: float, segments: int, radius: float = 1.0) -> torch.Tensor:
    turn = torch.linspace(0, angle, segments + 1, dtype=D)
    return radius * torch.stack([turn.cos(), turn.sin()], -1)[:, None]


def test_a_straight_line_does_not_turn_at_whatever_speed() -> None:
    share = torch.linspace(0, 1, 20, dtype=D).square()[:, None, None]
    assert float(total_curvature(share * torch.tensor([[1.0, 2.0, 3.0]], dtype=D))) < 1e-12


@pytest.mark.parametrize("angle", [0.1, math.pi / 2, 2 * math.pi, 5 * math.pi])
@pytest.mark.parametrize("radius", [1e-3, 7.0])
def test_an_arc_turns_by_its_angle(angle: float, radius: float) -> None:
    for segments in (10, 1000):
        assert float(total_curvature(arc(angle, segments, radius))) == pytest.approx(angle * (1 - 1 / segments))


def test_a_right_angle_and_a_way_back_turn_by_a_half_and_a_whole_pi() -> None:
    corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])[:, None]
    back = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]])[:, None]
    assert float(total_curvature(corner)) == pytest.approx(math.pi / 2)
    assert float(total_curvature(back)) == pytest.approx(math.pi)


def test_rests_on_the_way_change_nothing() -> None:
    whole = arc(1.0, 8)
    rests = torch.cat([whole[:1], whole[:4], whole[3:4], whole[3:], whole[-1:]])
    assert float(total_curvature(rests)) == pytest.approx(float(total_curvature(whole)))
    assert float(total_curvature(torch.zeros(5, 1, 2))) == 0.0


def test_a_small_angle_is_exact() -> None:
    bent = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 1e-9]], dtype=D)[:, None]
    assert float(total_curvature(bent)) == pytest.approx(1e-9, rel=1e-6)


def test_a_trajectory_is_needed() -> None:
    with pytest.raises(ValueError, match="save_steps"):
        total_curvature(torch.zeros(1, 2, 3))


@pytest.mark.parametrize(
    "process", [LINEAR, GaussianProcess(VPLinearSchedule(), NoisePrediction())], ids=["linear", "vp"]
)
def test_the_path_to_one_data_point_is_straight_under_every_process(process: GaussianProcess) -> None:
    point = GaussianMixture(torch.ones(1), torch.tensor([[0.7, -2.0]]), torch.full((1, 2), 1e-12))
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), LinearPathVariable())
    noise = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    solution = sampler.sample(Denoiser(point.network(process), process), noise, 16, save_steps=True)
    found = trajectory_shape(solution, process)
    assert float(found.straightness.max()) < 1e-9
    assert float(found.curvature.max()) < 1e-4


def test_the_flow_of_a_gaussian_turns_as_its_conic_does() -> None:
    """From N(0, I) to N(0, diag(a², 1)): y = (√((1−t)²a² + t²) ξ, √((1−t)² + t²) η), whose direction is known."""
    a = 0.2
    law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[a * a, 1.0]]))
    noise = sample_noise(derive_seed(0, "evaluate", 0), "sample", range(50), (2,)).to(D)
    t = torch.linspace(1, 0, 20001, dtype=D)[:, None, None]
    spread = ((1 - t) ** 2 * torch.tensor([a * a, 1.0], dtype=D) + t**2).sqrt()
    exact = total_curvature(spread * noise)
    found = flow_shape(Denoiser(law.network(LINEAR), LINEAR), 0, count=50, steps=1000, shape=(2,)).curvature
    assert float((found - exact).abs().max()) < 0.04
    assert float(exact.max()) > 0.5


def test_straightness_is_zero_on_a_line_and_exact_on_a_bent_flow() -> None:
    x1 = torch.randn(50, 1, generator=torch.Generator().manual_seed(1), dtype=D)
    times = torch.linspace(1, 0, 401, dtype=D)
    line = torch.stack([x1 * t + (1 - t) * (x1 - 2) for t in times])
    assert float(straightness(times, line).abs().max()) < 1e-20
    # The flow of N(0, 1) data on the linear path is x_t = D x_1 with D² = 1 − 2t + 2t²: S = ∫ D'² dt x_1².
    bent = torch.stack([x1 * (1 - 2 * t + 2 * t * t).sqrt() for t in times])
    torch.testing.assert_close(straightness(times, bent), (2 - math.pi / 2) * x1[:, 0].square(), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="save_steps"):
        straightness(times[:1], bent[:1])
