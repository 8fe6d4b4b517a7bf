"""Shortcut models: agreement of one jump with two at the exact map, Euler at the bottom, students that learn."""

from __future__ import annotations

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, GaussianMap, Student, map_error, teacher, train

from isocline.datasets.batch import Batch
from isocline.distillation.direction import DataDirection
from isocline.distillation.distance import SquaredDistance
from isocline.distillation.flow_map_distiller import MovingJumps
from isocline.distillation.jump_law import DyadicJumps
from isocline.distillation.shortcut import Shortcut
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import VPLinearSchedule
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.flow_map import FlowMapSampler
from isocline.samplers.grid import UniformTimeGrid


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Kept(SquaredDistance):
    """Remembers the differences."""

    def __call__(self, difference):
        self.difference = difference.detach()
        return super().__call__(difference)


def test_the_exact_map_has_no_loss_but_for_the_shortest_jumps() -> None:
    kept, law = Kept(), DyadicJumps(6, still=0.25)
    batch = Batch(GAUSSIAN.sample(2000, draws(1)))
    loss = Shortcut(LINEAR, GAUSSIAN.network(LINEAR), jumps=law, distance=kept)(GaussianMap(), batch, draws(2))
    jumps = law(2000, LINEAR, draws(2))
    shortest = (jumps.start - jumps.end == law.shortest(LINEAR))[: jumps.moving]
    error = kept.difference[: jumps.moving].abs().amax(1)
    assert 100 < shortest.sum() < 500
    assert float(error[~shortest].max()) < 1e-12
    # Two Euler steps of 1/64: the error of the average slope is of the order of the step.
    assert 1e-4 < float(error[shortest].max()) < 0.1
    assert float(loss.terms["still_mse"]) < 1e-24


def test_the_shortest_jump_is_asked_for_two_euler_steps() -> None:
    noise = torch.randn(30, 2, generator=draws(), dtype=D)
    whole = MovingJumps(torch.ones(30, dtype=D), torch.zeros(30, dtype=D), noise, noise, None)
    _, wanted = Shortcut(LINEAR, teacher(), jumps=DyadicJumps(1)).average(GaussianMap(), whole)
    euler = DDIMSampler(UniformTimeGrid()).sample(Denoiser(GAUSSIAN.network(LINEAR), LINEAR), noise, 2).final
    torch.testing.assert_close(noise - wanted, euler)


def test_two_jumps_are_taken_of_the_process_at_hand() -> None:
    process, student = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3), Student(True).double()
    x = torch.randn(3, 2, generator=draws(), dtype=D)
    t, s = torch.tensor([1.0, 0.5, 0.75], dtype=D), torch.tensor([0.0, 0.0, 0.5], dtype=D)
    _, wanted = Shortcut(process, teacher(process)).average(student, MovingJumps(t, s, x, x, None))
    denoiser, variable = Denoiser(student, process), LinearPathVariable()
    middle = (t + s) / 2
    end = flow_map(denoiser, middle, s, flow_map(denoiser, t, middle, x))
    high, low = variable.position(process, t), variable.position(process, s)
    y, y_end = variable.from_state(process, high, x), variable.from_state(process, low, end)
    torch.testing.assert_close(wanted, (y - y_end) / (high - low)[:, None], rtol=1e-7, atol=1e-7)
    assert not wanted.requires_grad


def test_the_teacher_is_asked_once_a_sample_or_never() -> None:
    batch = Batch(GAUSSIAN.sample(64, draws(1)))
    for direction, asked in ((None, 64), (DataDirection(), 0)):
        objective = Shortcut(LINEAR, GAUSSIAN.network(LINEAR), direction)
        assert objective(GaussianMap(), batch, draws(2)).total.isfinite()
        assert objective.evaluations() == asked


@pytest.mark.parametrize(
    ("direction", "bound"),
    [(None, 0.25), pytest.param(DataDirection(), 0.45, marks=pytest.mark.slow)],
    ids=["teacher", "data"],
)
def test_a_student_approaches_the_exact_map(direction, bound: float) -> None:
    objective = Shortcut(LINEAR, teacher(), direction, DyadicJumps(7, still=0.25))
    student = train(objective, Student(takes_end=True), steps=400, lr=5e-3)
    errors = [
        map_error(lambda noise, nfe=nfe: FlowMapSampler().sample(Denoiser(student, LINEAR), noise, nfe).final)
        for nfe in (1, 4)
    ]
    # One Euler step of the teacher is off by 1.14, two by 0.52.
    assert max(errors) < bound, errors
