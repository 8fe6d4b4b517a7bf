"""Reflow round by round, and the last step of it: one step learned from pairs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.distillation.known_flow import LINEAR, D, GaussianMap, Student, exact_map, map_error, teacher, train
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.one_step import OneStepDistillation
from isocline.distillation.reflow import Reflow
from isocline.metrics.trajectory_evaluation import flow_shape
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.solvers.explicit import Heun

COUNT = 4000
NOISE = torch.randn(COUNT, 2, generator=torch.Generator().manual_seed(5))
Pairs = Callable[[int, torch.Generator], Batch]


def batches(ends: torch.Tensor) -> Pairs:
    def data(batch: int, stream: torch.Generator) -> Batch:
        chosen = torch.randint(COUNT, (batch,), generator=stream)
        return Batch(ends[chosen], None, NOISE[chosen])

    return data


@pytest.fixture(scope="module")
def first() -> Pairs:
    """Pairs of the exact flow."""
    whole = torch.ones(COUNT, dtype=D)
    return batches(exact_map(whole, 0 * whole, NOISE).float())


@pytest.fixture(scope="module")
def straightened(first: Pairs) -> nn.Module:
    return train(Reflow(LINEAR, teacher()), Student(), steps=600, data=first)


def pairs_of(network: nn.Module) -> Pairs:
    with torch.no_grad():
        sampler = ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())
        return batches(sampler.sample(Denoiser(network, LINEAR), NOISE, 32).final)


def straight(network: nn.Module) -> float:
    found = flow_shape(Denoiser(network, LINEAR), 0, count=500, steps=32, shape=(2,))
    return float(found.straightness.mean())


def one_step(network: nn.Module) -> float:
    objective = OneStepDistillation(LINEAR, nn.Identity())
    return map_error(lambda noise: objective.map(network, noise).detach())


def test_every_round_of_reflow_is_straighter_than_the_one_before(straightened: nn.Module) -> None:
    """S = 0.32 for the mixture's own flow, 0.002 after one round, 0.001 after two."""
    twice = train(Reflow(LINEAR, straightened), Student(), steps=600, data=pairs_of(straightened))
    rounds = [straight(network) for network in (teacher(), straightened, twice)]
    assert rounds[0] == pytest.approx(0.32, abs=0.02)
    assert rounds[1] < 0.02 * rounds[0]
    assert rounds[2] < 0.8 * rounds[1]


def test_one_step_of_a_rectified_flow_comes_near_the_exact_map_and_distillation_nearer(
    straightened: nn.Module, first: Pairs
) -> None:
    """One step: 1.14 from the exact map with the teacher, 0.15 after reflow, 0.1 after distillation on its pairs."""
    assert one_step(teacher()) == pytest.approx(1.14, abs=0.02)
    before = one_step(straightened)
    assert before < 0.25
    start = copy.deepcopy(straightened).requires_grad_(True)
    student = train(OneStepDistillation(LINEAR, straightened), start, steps=300, data=first)
    assert one_step(student) < min(0.13, 0.9 * before)


@pytest.mark.parametrize(
    "process",
    [LINEAR, GaussianProcess(VPLinearSchedule(), NoisePrediction())],
    ids=["linear", "vp"],
)
def test_the_loss_is_the_distance_of_one_ddim_step_and_vanishes_at_its_own_ends(process: GaussianProcess) -> None:
    student, objective = Student(), OneStepDistillation(process, Student(seed=1))
    ends = objective.map(student, NOISE[:50]).detach()
    loss = objective(student, Batch(ends, None, NOISE[:50]), torch.Generator())
    assert float(loss.total.detach()) == 0.0
    off = objective(student, Batch(ends + 0.5, None, NOISE[:50]), torch.Generator())
    assert float(off.total.detach()) == pytest.approx(0.25)
    off.total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert objective.evaluations() == 0


def test_the_exact_map_has_no_loss() -> None:
    exact, noise = GaussianMap(), NOISE[:50].to(D)
    whole = torch.ones(50, dtype=D)
    ends = noise - exact(whole, noise, None, 0 * whole).detach()
    objective = OneStepDistillation(GaussianProcess(LinearSchedule(), VelocityPrediction()), nn.Identity())
    assert float(objective(exact, Batch(ends, None, noise), torch.Generator()).terms["mse"]) < 1e-28


def test_batches_without_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match="x1; train on data/pairs"):
        OneStepDistillation(LINEAR, nn.Identity())(Student(), Batch(NOISE), torch.Generator())
