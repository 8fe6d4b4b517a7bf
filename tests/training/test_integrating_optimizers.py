"""Optimisers that evaluate the loss several times a step, under Lightning: one loss, one step, the same bits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.interruption import Stop, StopAt
from tests.training.test_fit import Regression, data, weights
from torch import Tensor, nn

from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.mlp import MLP
from isocline.optimization.adaptive import AdaptiveGradientFlow
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall
from isocline.optimization.pid_learning_rate import PIDLearningRate
from isocline.optimization.proximal import AndersonStages
from isocline.solvers import RK4, ImplicitEuler
from isocline.training.fit import FitResult, fit
from isocline.training.module import GenerativeModule
from isocline.training.settings import FitSettings

STEPS = 24
MAKE: dict[str, Any] = {
    "rk4": partial(GradientFlow, stepper=RK4(), lr=0.05),
    "implicit": partial(GradientFlow, stepper=ImplicitEuler(AndersonStages(iterations=4)), lr=0.1),
    "heavy_ball": partial(HeavyBall, lr=0.05),
    "adaptive": partial(AdaptiveGradientFlow, lr=0.5),
    "pid": partial(PIDLearningRate, optimizer=partial(torch.optim.SGD, momentum=0.9), lr=0.5),
}


class Counting(Regression):
    """Also remembers what each evaluation saw, and how often a step ended."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Tensor] = []
        self.steps: list[int] = []
        self.losses: list[float] = []

    def forward(self, network: nn.Module, batch: Any, generator: torch.Generator) -> Any:
        self.draws.append(torch.cat([batch.x0.flatten(), torch.tensor([generator.initial_seed() % 2**20])]))
        loss = super().forward(network, batch, generator)
        self.losses.append(loss.total.item())
        return loss

    def after_step(self, network: nn.Module, step: int) -> None:
        super().after_step(network, step)
        self.steps.append(step)


def train(directory: Path, name: str, objective: Regression | None = None, **kwargs: Any) -> FitResult:
    torch.manual_seed(0)
    average = partial(ExponentialMovingAverage, decay=0.9)
    module = GenerativeModule(
        MLP(2, 16, 2), objective or Regression(), MAKE[name], average, seed=7, steps=STEPS, warmup=5
    )
    clip = kwargs.pop("clip", 1.0)
    settings = FitSettings(steps=STEPS, batch_size=8, log_every=1, checkpoint_seconds=1e9, gradient_clip=clip)
    return fit(module, data(), settings, directory, label="test", **kwargs)


def test_all_evaluations_of_a_step_see_one_batch_and_one_noise_and_the_step_counts_once(tmp_path: Path) -> None:
    objective = Counting()
    found = train(tmp_path, "rk4", objective)
    assert len(objective.draws) == 4 * STEPS
    assert objective.steps == list(range(1, STEPS + 1))
    by_step = torch.stack(objective.draws).reshape(STEPS, 4, -1)
    assert bool((by_step == by_step[:, :1]).all())
    assert not torch.equal(by_step[0, 0], by_step[1, 0])
    # The curve holds the loss where each step started, not that of the method's last stage.
    assert [row["loss"] for row in found.history] == pytest.approx(objective.losses[::4])


@pytest.mark.parametrize("name", MAKE)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, name: str) -> None:
    whole = train(tmp_path / "whole", name)
    with pytest.raises(Stop):
        train(tmp_path / "cut", name, extra=(StopAt(tmp_path / "cut", 9, 11),))
    resumed = train(tmp_path / "cut", name)
    assert resumed.resumed_from == 9
    assert torch.equal(weights(whole.network), weights(resumed.network))
    assert whole.history == resumed.history


def test_gradients_are_clipped_in_every_evaluation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = weights(MLP(2, 16, 2)).detach()
    moved = train(tmp_path, "rk4", clip=1e-6).network
    # RK4's step is a mean of four slopes, none longer than the bound.
    assert float((weights(moved).detach() - before).norm()) <= STEPS * 0.05 * 1.001e-6


def test_the_curve_holds_the_step_that_was_taken_where_the_optimiser_controls_it(tmp_path: Path) -> None:
    steps = [row["lr"] for row in train(tmp_path, "pid").history]
    assert len(set(steps)) > STEPS // 2
    assert max(steps) <= 0.5
