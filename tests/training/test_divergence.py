"""Divergence that stays finite is named; what only looks like it is not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.ema import ExponentialMovingAverage
from isocline.objectives.base import Loss, Objective
from isocline.training.divergence import DivergedLossError, DivergenceRule, DivergenceWarning
from isocline.training.fit import FitResult, fit
from isocline.training.module import GenerativeModule
from isocline.training.settings import FitSettings

RULE = DivergenceRule()


def curve(loss: Callable[[int], float], points: int = 40, **terms: Callable[[int], float]) -> list[dict[str, float]]:
    return [
        {"step": 25 * (k + 1), "lr": 1e-3, "loss": loss(k), **{name: term(k) for name, term in terms.items()}}
        for k in range(points)
    ]


def judge(rows: list[dict[str, float]]) -> None:
    """As training does: after every point."""
    for end in range(1, len(rows) + 1):
        RULE.check(rows[:end])


@pytest.mark.parametrize(
    "loss",
    [
        lambda k: 3 * math.exp(-k / 8) + 0.1,
        lambda k: 0.01 * 2 ** (k // 10),  # a curriculum of shorter intervals
        lambda k: 5 - 0.3 * k,  # a likelihood that crosses zero
        lambda k: 1000.0 if k in (20, 21, 30) else 1.0,  # bad batches
        lambda k: 0.0 if k < 20 else 1.0,  # without a scale there is no level
        lambda k: 1e-6 if k < 2 else 1.0,  # a student that is its teacher at first
    ],
)
def test_a_loss_that_falls_steps_up_crosses_zero_or_spikes_is_no_divergence(loss: Callable[[int], float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge(curve(loss))


def test_a_loss_that_stays_far_above_its_usual_level_stops_the_run_and_the_term_that_rose_is_named() -> None:
    rows = curve(
        lambda k: 1.0 if k < 30 else 200.0,
        match=lambda k: 0.9,
        tangent=lambda k: 0.1 if k < 30 else 199.1,
        intervals=lambda k: 8.0 * 2 ** (k // 10),
    )
    named = (
        r"from step 775 to step 825 the loss stayed 199 times its usual level above it, now 200; "
        r"above all its term tangent, now 199; lower optimizer.lr or trainer.gradient_clip"
    )
    with pytest.raises(DivergedLossError, match=named):
        judge(rows)


def test_a_negative_loss_diverges_upwards_only() -> None:
    judge(curve(lambda k: -2.0 if k < 30 else -1e4))
    with pytest.raises(DivergedLossError, match="usual level above it, now 100"):
        judge(curve(lambda k: -2.0 if k < 30 else 100.0))


def test_a_loss_far_above_its_lowest_level_alone_warns_once_and_blames_no_term_that_did_not_rise() -> None:
    """Low for a quarter of the run: what is usual has risen too."""
    rows = curve(lambda k: 0.01 if 5 <= k < 10 else 1.0, match=lambda k: 1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        judge(rows)
    assert [w.category for w in caught] == [DivergenceWarning]
    assert "from step 275 to step 325 the loss stayed 99 times its lowest level above it" in str(caught[0].message)
    assert "term" not in str(caught[0].message)


class Linear(nn.Module):
    """Gradient descent on its squared error is stable up to a known learning rate and grows by a factor above it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, t: torch.Tensor, x: torch.Tensor, cond: object = None) -> torch.Tensor:
        return self.linear(x)


class Matching(Objective):
    """Match noise minus data."""

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        noise = torch.randn(batch.x0.shape, generator=generator)
        t = torch.rand(len(batch.x0), generator=generator)
        x = (1 - t[:, None]) * batch.x0 + t[:, None] * noise
        loss = (network(t, x, None) - (noise - batch.x0)).square().mean()
        return Loss(loss, {"mse": loss.detach()})


def run(directory: Path, lr: float, steps: int = 300) -> FitResult:
    """Train with a learning rate that rises from 0 to ``lr``: it is stable at first in any case."""
    torch.manual_seed(0)
    made = GenerativeModule(
        Linear(), Matching(), partial(torch.optim.SGD, lr=lr), partial(ExponentialMovingAverage, decay=0.9),
        seed=7, steps=steps, warmup=steps,
    )  # fmt: skip
    data = {"x0": torch.randn(64, 2, generator=torch.Generator().manual_seed(1))}
    settings = FitSettings(
        steps=steps, batch_size=16, warmup=steps, log_every=5, checkpoint_seconds=1e9, gradient_clip=0
    )
    return fit(made, data, settings, directory, label="test")


@pytest.mark.filterwarnings("ignore::isocline.training.divergence.DivergenceWarning")
def test_a_run_whose_learning_rate_becomes_too_high_is_stopped_with_step_term_and_cure(tmp_path: Path) -> None:
    named = r"to step \d+ the loss stayed .* term mse, .*; lower optimizer.lr"
    with pytest.raises(DivergedLossError, match=named):
        run(tmp_path / "high", lr=12.0)
    assert run(tmp_path / "low", lr=1.0).history[-1]["loss"] < 3
