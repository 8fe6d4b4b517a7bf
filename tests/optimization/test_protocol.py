"""Optimisers as integrators, as `torch.optim` knows them: state, closures, options, learning rates."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.optimization.bowls import TinyNetwork
from torch import nn
from torch.optim import SGD, Optimizer

from isocline.optimization.adaptive import AdaptiveGradientFlow
from isocline.optimization.curvature import DiagonalCurvature
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall
from isocline.optimization.nesterov import Nesterov
from isocline.optimization.pid_learning_rate import PIDLearningRate
from isocline.optimization.proximal import AndersonStages
from isocline.optimization.semilinear_flow import IMEXEuler, SemilinearFlow
from isocline.solvers import (
    ETD1,
    RK4,
    Bosh3,
    ConstantSteps,
    Euler,
    ImplicitEuler,
    Leapfrog,
    ODEProblem,
    solve,
)

EXACT = AndersonStages(iterations=30, memory=10, tol=1e-13)
PLAIN: dict[str, Callable[[Any], Optimizer]] = {
    "euler": partial(GradientFlow, stepper=Euler()),
    "rk4": partial(GradientFlow, stepper=RK4()),
    "implicit": partial(GradientFlow, stepper=ImplicitEuler(EXACT)),
    "heavy_ball": partial(HeavyBall, momentum=0.7),
    "leapfrog": partial(HeavyBall, momentum=0.7, stepper=Leapfrog()),
    "nesterov": partial(Nesterov, momentum=0.7),
    "rising": partial(Nesterov, momentum=None),
    "imex": partial(SemilinearFlow, stepper=IMEXEuler(), curvature=DiagonalCurvature(every=2)),
    "exponential": partial(SemilinearFlow, stepper=ETD1(), curvature=DiagonalCurvature(every=2)),
    "adaptive": partial(AdaptiveGradientFlow, stepper=Bosh3()),
    "pid": partial(PIDLearningRate, optimizer=partial(SGD, lr=0.1, momentum=0.5)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_saved_state_goes_on_with_the_same_bits(name: str) -> None:
    whole, cut = TinyNetwork(), TinyNetwork()
    optimizer = PLAIN[name]([{"params": [whole.first]}, {"params": [whole.last]}])
    for _ in range(5):
        optimizer.step(whole.closure(optimizer))
    file = io.BytesIO()
    torch.save({"network": whole.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    for _ in range(5):
        optimizer.step(whole.closure(optimizer))
    cut.load_state_dict(kept["network"])
    again = PLAIN[name]([{"params": [cut.first]}, {"params": [cut.last]}])
    again.load_state_dict(kept["optimizer"])
    for _ in range(5):
        again.step(cut.closure(again))
    assert torch.equal(whole.vector(), cut.vector())
    copy.deepcopy(again.state_dict())


@pytest.mark.parametrize("name", PLAIN)
def test_every_optimiser_lowers_the_loss_and_returns_the_loss_where_it_started(name: str) -> None:
    network = TinyNetwork()
    optimizer = PLAIN[name](network.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    closure = network.closure(optimizer)
    first = closure().item()
    for _ in range(60):
        before = closure().item()
        assert optimizer.step(closure).item() == before
    assert closure().item() < 0.7 * first


@pytest.mark.parametrize("name", ["euler", "heavy_ball", "nesterov"])
def test_one_gradient_that_is_there_already_is_enough(name: str) -> None:
    one, two = TinyNetwork(), TinyNetwork()
    with_closure, without = PLAIN[name](one.parameters()), PLAIN[name](two.parameters())
    for _ in range(3):
        with_closure.step(one.closure(with_closure))
        two.closure(without)()
        assert without.step() is None
    assert torch.equal(one.vector(), two.vector())


def test_methods_of_several_gradients_ask_for_a_closure_and_leave_the_parameters_alone() -> None:
    network = TinyNetwork()
    optimizer = GradientFlow(network.parameters(), RK4())
    network.closure(optimizer)()
    before = network.vector()
    with pytest.raises(ValueError, match=r"several gradients a step; call step\(closure\)"):
        optimizer.step()
    assert torch.equal(network.vector(), before)


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    for make in PLAIN.values():
        network = TinyNetwork()
        optimizer = make(network.parameters())
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        before = network.vector()
        optimizer.step(network.closure(optimizer))
        assert torch.equal(network.vector(), before)


def test_options_out_of_range_are_named() -> None:
    theta = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="lr=-1"):
        GradientFlow([theta], lr=-1)
    with pytest.raises(ValueError, match=r"momentum=1\.0"):
        HeavyBall([theta], momentum=1.0)
    with pytest.raises(ValueError, match="RK4 has no error estimate"):
        AdaptiveGradientFlow([theta], stepper=RK4())
    with pytest.raises(ValueError, match="give them one dtype"):
        GradientFlow([theta, nn.Parameter(torch.zeros(2, dtype=torch.float64))])
    with pytest.raises(TypeError, match="IMEXEuler got a ODEProblem"):
        solve(ODEProblem(lambda t, y, c: y, torch.zeros(1, 1), 0.0, 1.0), IMEXEuler(), ConstantSteps(1))
