"""Progressive distillation: its target, its rounds, and a student of two steps against the exact map."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, GaussianMap, Student, map_error, teacher, train
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.progressive import ProgressiveDistillation
from isocline.distillation.straight_target import straight_target
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import (
    AbstractPrediction,
    DataPrediction,
    NoisePrediction,
    VelocityPrediction,
    VPrediction,
)
from isocline.processes.schedule import AbstractSchedule, LinearSchedule, VPCosineSchedule, VPLinearSchedule


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jumps(network: nn.Module, n: int) -> Any:
    """N DDIM steps of equal time."""

    def jump(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for index in range(n, 0, -1):
                x = flow_map(Denoiser(network, LINEAR), index / n, (index - 1) / n, x)
        return x

    return jump


@pytest.mark.parametrize(
    "prediction", [DataPrediction(), NoisePrediction(), VPrediction(), VelocityPrediction()], ids=str
)
@pytest.mark.parametrize("schedule", [LinearSchedule(), VPCosineSchedule(), VPLinearSchedule()])
def test_a_step_with_the_target_lands_where_the_line_ends(
    schedule: AbstractSchedule, prediction: AbstractPrediction
) -> None:
    process = GaussianProcess(schedule, prediction)
    x, end = torch.randn(2, 6, 3, generator=draws(), dtype=D)
    t, s = torch.linspace(0.3, 0.98, 6, dtype=D), torch.linspace(0.0, 0.9, 6, dtype=D)
    target = straight_target(process, t, x, s, end, at=t, x=x)

    class Told(nn.Module):
        def forward(self, t: Any, x: Any, cond: Any = None) -> torch.Tensor:
            return target

    torch.testing.assert_close(flow_map(Denoiser(Told(), process), t, s, x), end, rtol=1e-9, atol=1e-9)


def test_an_exact_map_that_teaches_itself_has_no_loss_and_a_wrong_one_learns() -> None:
    batch = Batch(GAUSSIAN.sample(500, draws(1)).to(D))
    objective = ProgressiveDistillation(LINEAR, GaussianMap(), teacher_steps=8)
    assert float(objective(GaussianMap(), batch, draws(2)).terms["mse"]) < 1e-24
    wrong = GaussianMap(bias=0.1)
    loss = objective(wrong, batch, draws(2))
    loss.total.backward()
    assert float(loss.terms["mse"]) == pytest.approx(0.01)
    assert float(wrong.bias.grad) > 0


def test_a_teacher_of_one_time_leaves_the_error_of_its_steps_and_no_more() -> None:
    """The exact field, stepped: its local error is of order h², the student's slope is off by it over the step, h."""
    batch, exact = Batch(GAUSSIAN.sample(2000, draws(1)).to(D)), GaussianMap()
    errors = [
        float(ProgressiveDistillation(LINEAR, GAUSSIAN.network(LINEAR), steps)(exact, batch, draws(2)).terms["mse"])
        for steps in (16, 32, 64)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert (coarse / fine) ** 0.5 == pytest.approx(2.0, rel=0.15)


def test_the_weight_is_the_larger_of_the_datas_and_the_noises_error() -> None:
    """A velocity error δ is tδ of the data and (1 − t)δ of the noise."""
    objective = ProgressiveDistillation(LINEAR, GaussianMap(), teacher_steps=8)
    t = torch.tensor([0.2, 0.5, 0.9, 1.0], dtype=D)
    weight = objective.weighting(LINEAR.schedule(t), LINEAR.prediction)
    torch.testing.assert_close(weight, torch.maximum(t, 1 - t).square())


def test_each_round_promotes_the_student_whatever_its_architecture_and_a_resume_goes_on() -> None:
    def fresh() -> ProgressiveDistillation:
        made = ProgressiveDistillation(LINEAR, teacher(), 16, rounds=3, round_length=10)
        made.prepare(Student())
        return made

    objective, student, batch = fresh(), Student(seed=3), Batch(GAUSSIAN.sample(32, draws(1)).float())
    assert objective.current_teacher is objective.teacher
    assert float(objective(student, batch, draws()).terms["teacher_steps"]) == 16
    objective.after_step(student, 10)
    kept = copy.deepcopy(student)
    with torch.no_grad():
        next(student.parameters()).add_(1.0)
    resumed = fresh()
    resumed.load_state_dict(objective.state_dict())
    for one in (objective, resumed):
        assert one.current_steps == 8
        for promoted, was in zip(one.current_teacher.parameters(), kept.parameters(), strict=True):
            assert torch.equal(promoted, was)
            assert not promoted.requires_grad
    losses = [one(student, batch, draws(4)).total for one in (objective, resumed)]
    assert torch.equal(*losses)
    assert objective.evaluations() == resumed.evaluations() == 2 * 2 * 32  # both know of the first round


def test_a_student_of_two_steps_comes_near_the_teacher_of_sixteen() -> None:
    """Two steps: 0.52 from the exact map before, 0.14 after 900 updates; sixteen steps of the teacher: 0.086."""
    objective = ProgressiveDistillation(LINEAR, teacher(), teacher_steps=16, rounds=3, round_length=300)
    student = train(objective, Student(), steps=900, lr=5e-3)
    assert map_error(jumps(teacher(), 2)) == pytest.approx(0.52, abs=0.01)
    assert map_error(jumps(student, 2)) < 0.2
