"""The depth of Transformers that take other steps than Euler's, layer by layer."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from isocline.dynamics.readings.base import Subject, TextSide
from isocline.dynamics.readings.depth import DepthReading
from isocline.networks.depth.continuous import Continuous
from isocline.networks.depth.leapfrog import Leapfrog
from isocline.networks.depth.predictor_corrector import PredictorCorrector
from isocline.networks.depth.runge_kutta import RungeKutta
from isocline.networks.transformer import TokenTransformer
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import Heun

TEXT = TextSide(*(torch.randint(0, 7, (40, 12), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)))


def subject(method: object) -> Subject:
    torch.manual_seed(0)
    network = TokenTransformer(8, 12, 16, 3, 2, causal=True, time_conditioned=False, integrator=method)  # type: ignore[arg-type]
    for parameter in (network.embed.weight, *network.trunk.blocks.parameters()):
        nn.init.normal_(parameter, std=0.5)
    return Subject("ar", network.eval().requires_grad_(False), None, text=TEXT)


@pytest.mark.parametrize("method", [RungeKutta, PredictorCorrector])
def test_a_layer_whose_block_adds_nothing_is_found_to_be_prunable_and_the_last_says_the_whole(method: type) -> None:
    asked = subject(functools.partial(method, stepper=Heun()))
    for part in (asked.network.trunk.blocks[2].attention.out, asked.network.trunk.blocks[2].mlp[-1]):
        for parameter in part.parameters():
            nn.init.zeros_(parameter)
    if method is PredictorCorrector:  # its corrector adds the slope of the layer before
        asked.network.trunk.integrator.weights[2][2] = 0
    found = DepthReading(samples=8).read(asked, 0)
    rises = {name: estimate.mean for name, estimate in found.metrics["loss_rise"].items()}
    assert abs(rises["block_3"]) < 1e-5
    assert min(abs(rises["block_1"]), abs(rises["block_2"])) > 0.02
    assert found.tables["lens"][-1]["divergence"] == 0
    assert found.tables["blocks"][2]["step"] == 0


@pytest.mark.parametrize(
    "method", [Leapfrog, functools.partial(Continuous, stepper=Heun(), controller=ConstantSteps(3))]
)
def test_a_depth_without_layers_that_can_be_left_out_is_not_read(method: object) -> None:
    assert "no layers that can be left out" in (DepthReading().refusal(subject(method)) or "")
