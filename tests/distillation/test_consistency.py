"""Consistency distillation and reflow against exact flows."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.distillation.consistency import (
    ConsistencyDistillation,
    ConstantCurriculum,
    DoublingCurriculum,
    pseudo_huber,
)
from isocline.distillation.reflow import Reflow, straightness
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import StratifiedTimes
from isocline.processes.coupling import PairedCoupling
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, NoisePrediction, VelocityPrediction
from isocline.processes.probability_flow import AngleVariable, NoiseRatioVariable, TimeVariable
from isocline.processes.schedule import LinearSchedule, VESchedule, VPLinearSchedule
from isocline.solvers.explicit import Heun

D = torch.float64
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
MEAN, SD = 0.4, 0.5
GAUSSIAN = GaussianMixture(torch.ones(1), torch.full((1, 1), MEAN), torch.full((1, 1), SD**2))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class FlowMap(torch.nn.Module):
    """Velocity whose data prediction is the exact flow map of N(m, s²) to t = 0, off by ``bias`` t."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(bias, dtype=D))

    def forward(self, t, x, cond=None):
        t = t.reshape(-1, 1)
        spread = ((1 - t) ** 2 * SD**2 + t**2).sqrt()
        data = MEAN + SD * (x - (1 - t) * MEAN) / spread
        # x − f over t, without dividing by t: the limit at 0 is finite.
        ahead = torch.where(t > 0, (x - data) / t.clamp(min=1e-12), torch.zeros_like(x))
        return ahead - self.bias


def distiller(intervals: int, student: torch.nn.Module, **options) -> ConsistencyDistillation:
    objective = ConsistencyDistillation(
        LINEAR, GAUSSIAN.network(LINEAR), curriculum=ConstantCurriculum(intervals), **options
    )
    objective.target = copy.deepcopy(student).requires_grad_(False)
    return objective


@pytest.mark.parametrize(("stepper", "order"), [(None, 1), (Heun(), 2)], ids=["euler", "heun"])
def test_the_true_flow_map_is_a_fixed_point_as_the_intervals_shrink(stepper, order: int) -> None:
    data, student = GAUSSIAN.sample(4000, draws(1)), FlowMap()
    losses = []
    for intervals in (8, 32, 128):
        loss = distiller(intervals, student, stepper=stepper)(student, Batch(data), draws(2))
        losses.append(float(loss.terms["mse"]) ** 0.5)
    # A local error of order p + 1 in steps four times as short.
    for before, after in itertools.pairwise(losses):
        assert before / after > 0.75 * 4 ** (order + 1) / 2
    assert losses[-1] < 1e-3


def test_the_teachers_step_may_be_taken_in_a_scaled_state() -> None:
    data, student = GAUSSIAN.sample(4000, draws(1)), FlowMap()
    loss = distiller(64, student, variable=AngleVariable(), stepper=Heun())(student, Batch(data), draws(2))
    assert float(loss.terms["mse"]) ** 0.5 < 1e-3


def test_a_wrong_map_keeps_a_loss_and_its_gradient_points_home() -> None:
    data, wrong = GAUSSIAN.sample(4000, draws(1)), FlowMap(bias=0.2)
    objective = distiller(64, FlowMap())
    loss = objective(wrong, Batch(data), draws(2))
    loss.total.backward()
    assert float(loss.total) > 0.05
    assert wrong.bias.grad > 0
    assert all(not p.requires_grad for p in objective.parameters())


def test_the_boundary_is_exact_and_the_last_target_is_the_teachers_data() -> None:
    class Garbage(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return torch.full_like(x, 123.0)

    x = torch.randn(5, 1, generator=draws())
    assert torch.equal(Denoiser(Garbage(), LINEAR).data(torch.zeros(5), x), x)
    # One interval: the target is the teacher's one-step jump, whatever the target network says.
    objective = distiller(1, Garbage())
    data = torch.zeros(5, 1, dtype=D)
    loss = objective(GAUSSIAN.network(LINEAR), Batch(data), draws(4))
    # A DDIM step from pure noise is the teacher's posterior mean, here that of the student too.
    assert float(loss.terms["mse"]) == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(
    ("process", "options", "match"),
    [
        (GaussianProcess(LinearSchedule(), DataPrediction()), {}, "predicts data"),
        (GaussianProcess(VESchedule(), NoisePrediction()), {}, "VESchedule"),
        (GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3), {"variable": TimeVariable()}, "t_min"),
        (LINEAR, {"target_decay": 1.0}, "target_decay"),
    ],
)
def test_a_boundary_that_cannot_hold_is_an_error(process, options, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ConsistencyDistillation(process, torch.nn.Linear(1, 1), **options)


def test_a_noise_prediction_distils_in_the_noise_ratio() -> None:
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
    teacher = GAUSSIAN.network(process)
    objective = ConsistencyDistillation(process, teacher, variable=NoiseRatioVariable())
    loss = objective(teacher, Batch(GAUSSIAN.sample(64, draws()).float()), draws(1))
    assert loss.total.isfinite()
    assert float(loss.terms["intervals"]) == 8


def test_the_target_follows_the_student_with_its_decay_and_starts_from_the_teacher() -> None:
    teacher, student = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(student.weight, 3.0)
    student.running_mean.fill_(5.0)
    objective = ConsistencyDistillation(LINEAR, teacher, target_decay=0.75)
    assert torch.equal(objective.target.weight, teacher.weight)
    objective.after_step(student, 1)
    torch.testing.assert_close(objective.target.weight, torch.full((2,), 0.75 + 0.25 * 3))
    assert torch.equal(objective.target.running_mean, student.running_mean)
    torch.testing.assert_close(teacher.weight, torch.ones(2))


def test_a_resumed_objective_continues_target_and_curriculum_without_the_teacher() -> None:
    def fresh() -> ConsistencyDistillation:
        return ConsistencyDistillation(LINEAR, FlowMap(), curriculum=DoublingCurriculum(2, 16, 40))

    first, student = fresh(), FlowMap(0.3)
    for step in range(1, 26):
        first.after_step(student, step)
    second = fresh()
    second.load_state_dict(first.state_dict())
    batch = Batch(GAUSSIAN.sample(16, draws(1)))
    losses = [objective(student, batch, draws(2)) for objective in (first, second)]
    assert torch.equal(losses[0].total, losses[1].total)
    assert float(losses[1].terms["intervals"]) == 8
    kept = {key for key in first.state_dict() if not key.startswith("target.")}
    assert kept == {"teacher_evaluations", "_extra_state"}


def test_the_teacher_is_frozen_hidden_and_moves_with_the_objective() -> None:
    teacher = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
    objective = ConsistencyDistillation(LINEAR, teacher).train()
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    objective.double()
    assert teacher[0].weight.dtype == D


def test_the_curriculum_doubles_on_schedule() -> None:
    curriculum = DoublingCurriculum(first=10, last=80, steps=400)
    assert [curriculum(step) for step in (0, 99, 100, 200, 300, 399, 10**9)] == [10, 10, 20, 40, 80, 80, 80]
    with pytest.raises(ValueError, match="first=9"):
        DoublingCurriculum(9, 8, 10)


def test_pseudo_huber_is_quadratic_near_zero_and_linear_far_away() -> None:
    near, far = torch.full((1, 4), 1e-4, dtype=D), torch.full((1, 4), 1e4, dtype=D)
    assert float(pseudo_huber(near, 0.1)) == pytest.approx(1e-8 / 0.2, rel=1e-3)
    assert float(pseudo_huber(far, 0.1)) == pytest.approx(1e4, rel=1e-4)


def test_reflow_is_matching_on_the_pairs() -> None:
    x0, x1 = torch.randn(8, 2, generator=draws(1)), torch.randn(8, 2, generator=draws(2))
    network = torch.nn.Linear(2, 2)

    class Student(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return network(x)

    found = Reflow(LINEAR, torch.nn.Linear(1, 1))(Student(), Batch(x0, None, x1), draws(3))
    plain = DenoisingMatching(LINEAR, times=StratifiedTimes(), coupling=PairedCoupling())
    assert torch.equal(found.total, plain(Student(), Batch(x0, None, x1), draws(3)).total)
    with pytest.raises(ValueError, match="x1"):
        Reflow(LINEAR, torch.nn.Linear(1, 1))(Student(), Batch(x0), draws(3))


def test_straightness_is_zero_on_a_line_and_exact_on_a_bent_flow() -> None:
    x1 = torch.randn(50, 1, generator=draws(1), dtype=D)
    times = torch.linspace(1, 0, 401, dtype=D)
    line = torch.stack([x1 * t + (1 - t) * (x1 - 2) for t in times])
    assert float(straightness(times, line).abs().max()) < 1e-20
    # The flow of N(0, 1) data on the linear path is x_t = D x_1 with D² = 1 − 2t + 2t²: S = ∫ D'² dt x_1².
    bent = torch.stack([x1 * (1 - 2 * t + 2 * t * t).sqrt() for t in times])
    torch.testing.assert_close(straightness(times, bent), (2 - math.pi / 2) * x1[:, 0].square(), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="save_steps"):
        straightness(times[:1], bent[:1])
