"""Continuous-time consistency: the tangent and its derivative, warm-up, ends, students that learn."""

from __future__ import annotations

import math

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, GaussianMap, Student, map_error, teacher, train

from isocline.datasets.batch import Batch
from isocline.distillation.direction import DataDirection
from isocline.distillation.scm import ContinuousConsistency
from isocline.networks.unet import UNet
from isocline.objectives.time_sampling import LogNormalNoiseTimes, UniformTimes
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import (
    DataPrediction,
    NoisePrediction,
    TrigFlowPrediction,
    VelocityPrediction,
    VPrediction,
)
from isocline.processes.schedule import LinearSchedule, TrigFlowSchedule, VESchedule, VPCosineSchedule, VPLinearSchedule
from isocline.samplers.consistency import ConsistencySampler

PROCESSES = {
    "linear": LINEAR,
    "cosine": GaussianProcess(VPCosineSchedule(), VPrediction()),
    "trigflow": GaussianProcess(TrigFlowSchedule(0.6), TrigFlowPrediction()),
    "vp": GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3),
}
SIGMA = 0.6


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_teacher() -> torch.nn.Module:
    return GAUSSIAN.network(LINEAR)


def test_the_exact_consistency_function_has_no_tangent_and_no_loss() -> None:
    objective = ContinuousConsistency(LINEAR, exact_teacher(), SIGMA, times=UniformTimes(), warmup=0)
    loss = objective(GaussianMap(end=0.0), Batch(GAUSSIAN.sample(2000, draws(1))), draws(2))
    assert float(loss.terms["tangent"]) < 1e-12
    assert float(loss.total.detach()) < 1e-24
    # A network of two times is asked for its maps to data.
    mapped = objective(GaussianMap(), Batch(GAUSSIAN.sample(64, draws(1))), draws(2))
    assert float(mapped.total.detach()) < 1e-24


def test_a_wrong_function_has_a_tangent_and_its_gradient_points_home() -> None:
    wrong = GaussianMap(end=0.0, bias=0.2)
    objective = ContinuousConsistency(LINEAR, exact_teacher(), SIGMA, warmup=0)
    loss = objective(wrong, Batch(GAUSSIAN.sample(4000, draws(1))), draws(2))
    loss.total.backward()
    assert float(loss.terms["tangent"]) > 0.01
    assert float(wrong.bias.grad) > 0


@pytest.mark.parametrize("name", PROCESSES)
def test_the_tangent_is_the_functions_finite_difference_along_the_flow(name: str) -> None:
    process, student = PROCESSES[name], Student().double()
    exact = GAUSSIAN.network(process)
    t = torch.tensor([0.05, 0.3, 0.5, 0.7], dtype=D)
    x0, x1 = (torch.randn(4, 2, generator=draws(seed), dtype=D) for seed in (1, 2))
    path = process.sample(x0, x1, t)
    found, tangent = ContinuousConsistency(process, exact, SIGMA).tangent(student, path, None)
    angle = torch.atan2(path.values.sigma, SIGMA * path.values.alpha)

    def state(angle):
        values = process.schedule(process.schedule.inverse_log_ratio(-(SIGMA * angle.tan()).log()))
        return torch.hypot(values.alpha, values.sigma / SIGMA)[:, None]

    denoiser = Denoiser(exact, process)
    turn = angle.cos()[:, None] * SIGMA * denoiser.noise(t, path.x) - angle.sin()[:, None] * denoiser.data(t, path.x)
    z = path.x / state(angle)

    @torch.no_grad()
    def function(step: float):
        at = angle + step
        time = process.schedule.inverse_log_ratio(-(SIGMA * at.tan()).log())
        return Denoiser(student, process).data(time, (z + step * turn) * state(at))

    step = 1e-5
    wanted = angle.cos()[:, None] * (function(step) - function(-step)) / (2 * step)
    torch.testing.assert_close(tangent, wanted, rtol=1e-6, atol=1e-6)
    # f = cos θ z − sin θ σ_d F.
    function_again = angle.cos()[:, None] * z - angle.sin()[:, None] * SIGMA * found
    torch.testing.assert_close(function_again, function(0.0), rtol=1e-8, atol=1e-8)
    assert found.requires_grad
    assert not tangent.requires_grad


def test_without_the_second_part_the_tangent_is_that_of_the_diffusion_objective() -> None:
    objective = ContinuousConsistency(LINEAR, exact_teacher(), SIGMA, DataDirection())
    path = LINEAR.sample(
        *(torch.randn(5, 2, generator=draws(seed), dtype=D) for seed in (1, 2)), torch.rand(5, dtype=D)
    )
    found, tangent = objective.tangent(Student().double(), path, None, rising=0.0)
    angle = torch.atan2(path.values.sigma, SIGMA * path.values.alpha)[:, None]
    turn = angle.cos() * SIGMA * path.x1 - angle.sin() * path.x0
    torch.testing.assert_close(tangent, -angle.cos().square() * (SIGMA * found.detach() - turn))


def test_the_datas_tangent_has_the_teachers_mean() -> None:
    objective = ContinuousConsistency(LINEAR, exact_teacher(), SIGMA, DataDirection(), UniformTimes())
    n = 40_000
    t = UniformTimes()(n, LINEAR, draws(3))
    path = LINEAR.sample(GAUSSIAN.sample(n, draws(1)), torch.randn(n, 2, generator=draws(2), dtype=D), t)
    _, tangent = objective.tangent(GaussianMap(end=0.0), path, None)
    assert float(tangent.std()) > 0.1
    assert (tangent.mean(0).abs() < 4 * tangent.std(0) / n**0.5).all()
    assert objective.evaluations() == 0


def test_the_warm_up_rises_and_survives_a_resume() -> None:
    first, student = ContinuousConsistency(LINEAR, exact_teacher(), SIGMA, warmup=40), GaussianMap(end=0.0)
    batch = Batch(GAUSSIAN.sample(16, draws(1)))
    rises = []
    for step in (10, 40, 80):
        rises.append(float(first(student, batch, draws(2)).terms["warmup"]))
        first.after_step(student, step)
    assert rises == [0.0, 0.25, 1.0]
    second = ContinuousConsistency(LINEAR, exact_teacher(), SIGMA, warmup=160)
    second.load_state_dict(first.state_dict())
    assert float(second(student, batch, draws(2)).terms["warmup"]) == 0.5
    assert not any(p.requires_grad for p in first.parameters())
    assert not any("_frozen" in key for key in first.state_dict())


@pytest.mark.parametrize(
    ("process", "options", "match"),
    [
        (GaussianProcess(LinearSchedule(), DataPrediction()), {}, "DataPrediction"),
        (GaussianProcess(VESchedule(), NoisePrediction()), {}, "VESchedule"),
        (LINEAR, {"offset": 0.0}, "offset=0"),
        (LINEAR, {"warmup": -1}, "warmup=-1"),
        (LINEAR, {"sigma_data": 0.0}, "sigma_data=0"),
    ],
)
def test_what_cannot_be_is_refused(process, options, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ContinuousConsistency(process, teacher(), **options)


def test_the_end_is_the_angle_of_the_largest_noise_and_not_a_quarter_turn() -> None:
    end = float(TrigFlowSchedule(0.5).inverse_log_ratio(-math.log(80)))
    assert end == pytest.approx(0.996021, abs=1e-6)
    assert end * math.pi / 2 == pytest.approx(1.5645464, abs=1e-6)
    process = GaussianProcess(TrigFlowSchedule(0.5), VelocityPrediction(), t_max=end)
    assert float(LogNormalNoiseTimes(4.0, 1.4)(1000, process, draws()).max()) == end
    assert float(process.prior(torch.ones(1, 1))) == pytest.approx(0.5 * math.sin(math.atan(160)), rel=1e-6)


def test_reduced_precision_does_not_reach_the_tangent() -> None:
    network = UNet(1, 8, width=8, multipliers=(1, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws()))
    images = Batch(torch.randn(8, 1, 8, 8, generator=draws(3)))
    objective = ContinuousConsistency(LINEAR, UNet(1, 8, width=8, multipliers=(1, 2)), SIGMA, DataDirection(), warmup=0)
    full = objective(network, images, draws(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = objective(network, images, draws(4))
    half.total.backward()
    assert torch.equal(half.terms["tangent"], full.terms["tangent"])
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("direction", "bound"),
    [(None, 0.25), pytest.param(DataDirection(), 0.55, marks=pytest.mark.slow)],
    ids=["teacher", "data"],
)
def test_a_student_approaches_the_exact_map(direction, bound: float) -> None:
    objective = ContinuousConsistency(LINEAR, teacher(), 1.0, direction, UniformTimes(), warmup=150)
    student = train(objective, Student(), steps=400, lr=5e-3)
    error = map_error(lambda noise: ConsistencySampler().sample(Denoiser(student, LINEAR), noise, 1).final)
    # One Euler step of the teacher is off by 1.14, two by 0.52.
    assert error < bound, error
