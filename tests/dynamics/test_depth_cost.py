"""Operations and evaluations of a Transformer's depth, against what can be counted by hand."""

from __future__ import annotations

import functools

import pytest
import torch

from isocline.dynamics.depth_cost import evaluations, flops_per_token, matched_depth
from isocline.networks.depth.continuous import Continuous
from isocline.networks.depth.implicit_euler import ImplicitEuler
from isocline.networks.depth.leapfrog import Leapfrog
from isocline.networks.depth.predictor_corrector import PredictorCorrector
from isocline.networks.depth.runge_kutta import RungeKutta
from isocline.networks.depth.splitting import Macaron, Parallel, Strang
from isocline.networks.transformer import TokenTransformer
from isocline.solvers import explicit
from isocline.solvers.controller import ConstantSteps

VOCAB, LENGTH, WIDTH = 11, 8, 16


def network(depth=3, integrator=None, causal=True):
    torch.manual_seed(0)
    return TokenTransformer(VOCAB, LENGTH, WIDTH, depth, 2, causal, False, relative=not causal, integrator=integrator)


def tokens():
    return torch.randint(0, 10, (3, LENGTH), generator=torch.Generator().manual_seed(0))


MLP, ATTENTION, HEAD = 16 * WIDTH**2, 8 * WIDTH**2 + 4 * LENGTH * WIDTH, 2 * WIDTH * VOCAB
RK4 = functools.partial(RungeKutta, stepper=explicit.RK4())


@pytest.mark.parametrize("causal", [True, False])
def test_operations_of_the_ordinary_network_are_those_of_its_matrices_and_its_attention(causal):
    assert flops_per_token(network(causal=causal), tokens()) == 3 * (MLP + ATTENTION) + HEAD


@pytest.mark.parametrize(
    ("integrator", "attention", "mlp"),
    [
        (RK4, 4, 4),
        (Strang, 1, 2),
        (Macaron, 1, 1),
        (Parallel, 1, 1),
        (Leapfrog, 1, 1),
        (functools.partial(ImplicitEuler, iterations=3), 3, 3),
        (functools.partial(PredictorCorrector, stepper=explicit.Heun()), 3, 3),
        (functools.partial(Continuous, stepper=explicit.Heun(), controller=ConstantSteps(3)), 2, 2),
        (functools.partial(RungeKutta, stepper=explicit.Bosh3()), 3, 3),  # the slope at the step's end is not needed
    ],
)
def test_every_method_costs_its_evaluations_and_no_more(integrator, attention, mlp):
    made = network(3, integrator)
    assert evaluations(made, tokens()) == 3 * attention
    assert flops_per_token(made, tokens()) == 3 * (attention * ATTENTION + mlp * MLP) + HEAD


def test_the_matched_depth_is_the_nearest_by_ratio():
    target = flops_per_token(network(4), tokens())
    assert matched_depth(network, target, 6, tokens()) == 4
    assert matched_depth(lambda depth: network(depth, RK4), target, 4, tokens()) == 1
    heun = functools.partial(RungeKutta, stepper=explicit.Heun())
    assert matched_depth(lambda depth: network(depth, heun), target, 4, tokens()) == 2
