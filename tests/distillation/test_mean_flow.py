"""MeanFlow: its identity at the exact map, its derivative, its floor under the data's slopes, students that learn."""

from __future__ import annotations

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, GaussianMap, Student, map_error, teacher, train

from isocline.datasets.batch import Batch
from isocline.distillation.direction import DataDirection, TeacherDirection
from isocline.distillation.distance import SquaredDistance
from isocline.distillation.flow_map_distiller import DIFFERENCE, MovingJumps
from isocline.distillation.jump_law import SortedJumps
from isocline.distillation.mean_flow import MeanFlow
from isocline.networks.unet import UNet
from isocline.objectives.time_sampling import UniformTimes
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction, VelocityPrediction, VPrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import TrigFlowSchedule, VPCosineSchedule, VPLinearSchedule
from isocline.samplers.flow_map import FlowMapSampler
from isocline.samplers.guidance import ClassifierFreeGuidance

PROCESSES = {
    "linear": LINEAR,
    "cosine": GaussianProcess(VPCosineSchedule(), VPrediction()),
    "trigflow": GaussianProcess(TrigFlowSchedule(0.6), VelocityPrediction()),
    "vp": GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3),
}
EVERYWHERE = SortedJumps(UniformTimes(), still=0.25)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 2000) -> Batch:
    return Batch(GAUSSIAN.sample(n, draws(1)))


def test_the_exact_map_has_no_loss() -> None:
    loss = MeanFlow(LINEAR, GAUSSIAN.network(LINEAR), jumps=EVERYWHERE)(GaussianMap(), batch(), draws(2))
    assert float(loss.terms["moving_mse"]) < 1e-24
    assert float(loss.terms["still_mse"]) < 1e-24


def test_a_wrong_map_has_a_loss_and_its_gradient_points_home() -> None:
    wrong = GaussianMap(bias=0.2)
    loss = MeanFlow(LINEAR, GAUSSIAN.network(LINEAR), distance=SquaredDistance())(wrong, batch(), draws(2))
    # The bias is subtracted in both the map and, as a constant, not at all in its derivative.
    assert float(loss.total.detach()) == pytest.approx(0.04, rel=1e-9)
    loss.total.backward()
    assert float(wrong.bias.grad) > 0


class Kept(SquaredDistance):
    """Remembers the differences."""

    def __call__(self, difference):
        self.difference = difference.detach()
        return super().__call__(difference)


def test_under_the_datas_slopes_what_is_left_has_mean_zero_and_the_variance_of_the_slope() -> None:
    kept = Kept()
    objective = MeanFlow(LINEAR, teacher(), DataDirection(), EVERYWHERE, kept)
    loss = objective(GaussianMap(), batch(40_000), draws(2))
    moving = kept.difference[:30_000]
    assert (moving.mean(0).abs() < 4 * moving.std(0) / 30_000**0.5).all()
    t, variance = torch.linspace(0, 1, 20_001, dtype=D)[:, None], GAUSSIAN.variances
    floor = float((variance / ((1 - t) ** 2 * variance + t**2)).mean())
    assert float(loss.terms["still_mse"]) == pytest.approx(floor, rel=0.03)
    assert objective.evaluations() == 0


@pytest.mark.parametrize("name", PROCESSES)
def test_the_derivative_is_that_of_finite_differences_along_the_flow(name: str) -> None:
    process, variable, student = PROCESSES[name], LinearPathVariable(), Student(takes_end=True).double()
    start = torch.tensor([0.15, 0.4, 0.6, 0.85], dtype=D)
    end = start * torch.tensor([0.0, 0.5, 0.9, 0.2], dtype=D)
    x, slope = (torch.randn(4, 2, generator=draws(seed), dtype=D) for seed in (1, 2))
    found, wanted = MeanFlow(process, teacher()).average(student, MovingJumps(start, end, x, slope, None))
    high, low = variable.position(process, start), variable.position(process, end)
    y = variable.from_state(process, high, x)

    @torch.no_grad()
    def average(step: float):
        t, state = variable.time(process, high + step), variable.to_state(process, high + step, y + step * slope)
        return Denoiser(student, process).towards(end).predict(t, state, None, DIFFERENCE)

    step = 1e-5
    change = (average(step) - average(-step)) / (2 * step)
    torch.testing.assert_close(found, average(0.0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(wanted, slope - (high - low)[:, None] * change, rtol=1e-6, atol=1e-6)
    assert found.requires_grad
    assert not wanted.requires_grad


def test_conditions_and_guidance_reach_the_right_samples() -> None:
    class Labelled(torch.nn.Module):
        takes_end = True

        def forward(self, t, x, cond=None, s=None):
            return 0 * x + (0.0 if cond is None else 3 * cond[:, None].to(x.dtype))

    class Scaled(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return 0 * x + (0.0 if cond is None else 1.5 * cond[:, None].to(x.dtype))

    guided = TeacherDirection(lambda denoiser: ClassifierFreeGuidance(denoiser, 2.0))
    objective = MeanFlow(LINEAR, Scaled(), guided, EVERYWHERE)
    labelled = Batch(torch.zeros(40, 2), torch.arange(40))
    assert float(objective(Labelled(), labelled, draws()).total) == 0
    assert objective.evaluations() == 80


def test_a_network_of_one_time_is_refused() -> None:
    with pytest.raises(ValueError, match="end_time: true"):
        MeanFlow(LINEAR, teacher())(Student(), batch(), draws())


@pytest.mark.parametrize("still", [0.0, 0.5, 1.0])
def test_reduced_precision_leaves_jumps_in_full_precision_and_all_finite(still: float) -> None:
    network = UNet(1, 8, width=8, multipliers=(1, 2), end_time=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws()))
    images = Batch(torch.randn(8, 1, 8, 8, generator=draws(3)))
    objective = MeanFlow(LINEAR, UNet(1, 8, width=8, multipliers=(1, 2)), jumps=SortedJumps(still=still))
    full = objective(network, images, draws(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = objective(network, images, draws(4))
    half.total.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert half.terms.keys() == full.terms.keys()
    if still < 1:
        assert torch.equal(half.terms["moving_mse"], full.terms["moving_mse"])


@pytest.mark.parametrize(
    ("direction", "bound"),
    [(None, 0.25), pytest.param(DataDirection(), 0.3, marks=pytest.mark.slow)],
    ids=["teacher", "data"],
)
def test_a_student_approaches_the_exact_map(direction, bound: float) -> None:
    objective = MeanFlow(LINEAR, teacher(), direction, EVERYWHERE, SquaredDistance())
    student = train(objective, Student(takes_end=True), steps=400, lr=5e-3)
    errors = [
        map_error(lambda noise, nfe=nfe: FlowMapSampler().sample(Denoiser(student, LINEAR), noise, nfe).final)
        for nfe in (1, 4)
    ]
    # One Euler step of the teacher is off by 1.14, two by 0.52.
    assert max(errors) < bound, errors
