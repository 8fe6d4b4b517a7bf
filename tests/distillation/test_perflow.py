"""Piecewise rectified flow: lines within windows, the exact windowed map, and a student of one step per window."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, Student, map_error, teacher, train
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.perflow import PiecewiseRectifiedFlow
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import (
    AbstractPrediction,
    DifferencePrediction,
    NoisePrediction,
    VelocityPrediction,
    VPrediction,
    convert,
)
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import AbstractSchedule, LinearSchedule, VPCosineSchedule, VPLinearSchedule
from isocline.solvers.explicit import Dopri8, Euler

BOUNDARIES = (0.25, 0.5, 0.75)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class WindowedMap(nn.Module):
    """The exact straight lines of `GAUSSIAN` within the windows: the slope at a point of the line through it.

    In y the flow is m(π) + S(π) z with one z all along, so the line through y in a window has z = (y − m̄)/S̄ with m̄ and
    S̄ the chords of m and S.
    """

    def __init__(self, process: GaussianProcess, bias: float = 0.0) -> None:
        super().__init__()
        self.process = process
        self.bias = nn.Parameter(torch.tensor(bias, dtype=D))
        ends = torch.tensor([0.0, *BOUNDARIES, process.t_max], dtype=D)
        self.positions = LinearPathVariable().position(process, ends)

    def forward(self, t: Any, x: torch.Tensor, cond: Any = None) -> torch.Tensor:
        variable, process = LinearPathVariable(), self.process
        position = variable.position(process, t).reshape(-1, 1)
        index = torch.searchsorted(self.positions, position.flatten(), right=False).clamp(1, len(self.positions) - 1)
        upper, lower = (self.positions[index - offset].reshape(-1, 1) for offset in (0, 1))
        mean, variance = GAUSSIAN.means[0], GAUSSIAN.variances[0]
        (m_up, s_up), (m_low, s_low) = (
            ((1 - p) * mean, ((1 - p) ** 2 * variance + p**2).sqrt()) for p in (upper, lower)
        )
        share = (position - lower) / (upper - lower)
        y = variable.from_state(process, position.flatten(), x)
        z = (y - torch.lerp(m_low, m_up, share)) / torch.lerp(s_low, s_up, share)
        slope = (m_up - m_low + (s_up - s_low) * z) / (upper - lower) - self.bias
        return convert(slope, x, process.schedule(t), DifferencePrediction(), process.prediction)


@pytest.mark.parametrize(
    ("schedule", "prediction", "t_min"),
    [
        (LinearSchedule(), VelocityPrediction(), 0.0),
        (VPCosineSchedule(), VPrediction(), 0.0),
        (VPLinearSchedule(), NoisePrediction(), 0.0),
    ],
    ids=["linear", "cosine", "vp"],
)
def test_the_exact_windowed_map_has_no_loss(
    schedule: AbstractSchedule, prediction: AbstractPrediction, t_min: float
) -> None:
    process = GaussianProcess(schedule, prediction, t_min=t_min)
    objective = PiecewiseRectifiedFlow(process, GAUSSIAN.network(process), BOUNDARIES, steps=6, stepper=Dopri8())
    batch = Batch(GAUSSIAN.sample(1000, draws(1)).to(D))
    assert float(objective(WindowedMap(process), batch, draws(2)).terms["mse"]) < 1e-13


@pytest.mark.parametrize(("stepper", "order"), [(Euler(), 1), (None, 2)], ids=["euler", "heun"])
def test_what_is_left_of_the_loss_is_the_error_of_the_teachers_solver(stepper: Any, order: int) -> None:
    batch, student = Batch(GAUSSIAN.sample(2000, draws(1)).to(D)), WindowedMap(LINEAR)
    errors = []
    for steps in (4, 8, 16):
        objective = PiecewiseRectifiedFlow(LINEAR, GAUSSIAN.network(LINEAR), BOUNDARIES, steps, stepper)
        errors.append(float(objective(student, batch, draws(2)).terms["mse"]) ** 0.5)
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.2)


def test_a_wrong_slope_costs_its_square_and_points_home() -> None:
    objective = PiecewiseRectifiedFlow(LINEAR, GAUSSIAN.network(LINEAR), BOUNDARIES, steps=6, stepper=Dopri8())
    wrong = WindowedMap(LINEAR, bias=0.2)
    loss = objective(wrong, Batch(GAUSSIAN.sample(500, draws(1)).to(D)), draws(2))
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(0.04)
    assert float(wrong.bias.grad) > 0


def test_the_teacher_is_frozen_and_counted() -> None:
    objective = PiecewiseRectifiedFlow(LINEAR, Student(seed=1), steps=3)
    objective(Student(), Batch(torch.zeros(10, 2)), draws()).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert objective.evaluations() == 10 * 3 * 2


@pytest.mark.parametrize("boundaries", [(0.5, 0.5), (0.0, 0.5), (0.5, 1.0)])
def test_boundaries_outside_the_flow_are_an_error(boundaries: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"boundaries = .* between 0 and t_max = 1.0"):
        PiecewiseRectifiedFlow(LINEAR, Student(), boundaries)
    with pytest.raises(ValueError, match="steps = 0"):
        PiecewiseRectifiedFlow(LINEAR, Student(), steps=0)


def test_a_student_of_one_step_per_window_comes_near_the_exact_map() -> None:
    """Four steps: 0.25 from the exact map with the teacher, 0.16 after 600 updates."""
    objective = PiecewiseRectifiedFlow(LINEAR, teacher(), BOUNDARIES, steps=2)
    student = train(objective, Student(takes_end=True), steps=600)

    def jump(network: nn.Module) -> Any:
        def go(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
                    x = flow_map(Denoiser(network, LINEAR), t, s, x)
            return x

        return go

    assert map_error(jump(teacher())) == pytest.approx(0.25, abs=0.01)
    assert map_error(jump(student)) < 0.2
