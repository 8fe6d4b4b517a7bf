"""Regularisers of depth on Transformers whose depth is integrated otherwise than by Euler's step."""

from __future__ import annotations

import functools
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from isocline.datasets.batch import Batch
from isocline.networks.depth.continuous import Continuous
from isocline.networks.depth.euler import Euler
from isocline.networks.depth.implicit_euler import ImplicitEuler
from isocline.networks.depth.leapfrog import Leapfrog
from isocline.networks.depth.predictor_corrector import PredictorCorrector
from isocline.networks.depth.runge_kutta import LearnedRungeKutta, RungeKutta
from isocline.networks.depth.splitting import Macaron, MlpFirst, Parallel, Strang
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import RK4, Heun
from isocline.solvers.gradient import Backpropagation, DiscreteAdjoint
from isocline.training.regularisation.jacobian_frobenius import JacobianFrobenius
from isocline.training.regularisation.parameter_smoothness import ParameterSmoothness
from isocline.training.regularisation.regularised import Regularised, RegulariserError
from isocline.training.regularisation.spectral_norm import SpectralNorm
from isocline.training.regularisation.state_smoothness import StateSmoothness
from isocline.training.regularisation.stochastic_depth import StochasticDepth
from isocline.training.regularisation.weight_tying import WeightTying

D = torch.float64
MEMORYLESS = {
    "euler": Euler,
    "rk2": functools.partial(RungeKutta, stepper=Heun()),
    "rk4_learned": functools.partial(LearnedRungeKutta, stepper=RK4()),
    "strang": Strang,
    "strang_untied": Macaron,
    "lie_trotter": MlpFirst,
    "parallel": Parallel,
    "implicit": ImplicitEuler,
    "predictor_corrector": functools.partial(PredictorCorrector, stepper=Heun()),
}
LAYERED = {**MEMORYLESS, "leapfrog": Leapfrog, "momentum": functools.partial(Leapfrog, friction=0.5)}
STEPS = {"stepper": Heun(), "controller": ConstantSteps(3)}
EVERY = {**LAYERED, "continuous": functools.partial(Continuous, **STEPS, gradient=Backpropagation())}
ADJOINT = functools.partial(Continuous, **STEPS, gradient=DiscreteAdjoint())
TOKENS = torch.randint(0, 6, (3, 5), generator=torch.Generator().manual_seed(0))


def network(method: object, depth: int = 3) -> TokenTransformer:
    torch.manual_seed(0)
    made = TokenTransformer(7, 5, 8, depth, 2, causal=True, time_conditioned=False, integrator=method)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return made.to(D)


def regularised(made: TokenTransformer, regulariser: object) -> Regularised:
    found = Regularised(AutoregressiveObjective(), {"one": regulariser})  # type: ignore[dict-item]
    found.prepare(made)
    return found


def loss(objective: Regularised, made: TokenTransformer, tokens: Tensor = TOKENS, seed: int = 2):
    return objective(made, Batch(tokens), torch.Generator().manual_seed(seed))


def fed(made: TokenTransformer, tokens: Tensor = TOKENS) -> Tensor:
    """What an autoregressive network is fed: the tokens, one later."""
    return torch.cat([torch.full((len(tokens), 1), 6), tokens[:, :-1]], 1)


@pytest.mark.parametrize("name", LAYERED)
def test_the_smoothness_of_states_is_that_of_the_trajectory(name: str) -> None:
    made = network(LAYERED[name])
    states = made.trunk.trajectory(made.embed(fed(made)))
    expected = sum((after - before).square().mean() for before, after in pairwise(states))
    found = loss(regularised(made, StateSmoothness(1.0)), made).terms["one"]
    torch.testing.assert_close(found, expected.detach())
    assert len(states) == 4


@pytest.mark.parametrize("name", LAYERED)
def test_parameters_are_smooth_over_the_blocks_of_every_method(name: str) -> None:
    made = network(LAYERED[name])
    one, two, three = (dict(block.named_parameters()) for block in made.trunk.blocks)
    expected = sum((b[key] - a[key]).square().sum() for a, b in ((one, two), (two, three)) for key in one)
    torch.testing.assert_close(loss(regularised(made, ParameterSmoothness(1.0)), made).terms["one"], expected.detach())


@pytest.mark.parametrize("name", LAYERED)
def test_blocks_are_tied_and_coefficients_of_the_method_are_not(name: str) -> None:
    made = network(LAYERED[name])
    own = {key: value.clone() for key, value in made.trunk.integrator.state_dict().items()}
    objective = regularised(made, WeightTying())
    assert len({id(weight) for block in made.trunk.blocks for weight in block.parameters()}) == len(
        list(made.trunk.blocks[0].parameters())
    )
    assert all(torch.equal(value, own[key]) for key, value in made.trunk.integrator.state_dict().items())
    loss(objective, made).total.backward()
    assert all(weight.grad is not None for weight in made.trunk.blocks[2].parameters())


@pytest.mark.parametrize("name", MEMORYLESS)
def test_a_layer_is_left_out_or_counts_twice_at_a_rate_of_one_half(name: str) -> None:
    made = network(MEMORYLESS[name], depth=1)
    tokens = TOKENS[:1].expand(40, 5)
    start, end = (state[0].detach() for state in made.trunk.trajectory(made.embed(fed(made, tokens[:1]))))
    said: list[Tensor] = []
    made.trunk.integrator.register_forward_hook(lambda module, args, output: said.append(output.detach()))
    share = float(loss(regularised(made, StochasticDepth(0.5)), made, tokens).terms["one"])
    (found,) = said
    away = (found - start).abs().amax((1, 2)) == 0
    assert 0 < int(away.sum()) < 40
    assert share == pytest.approx(1 - float(away.double().mean()))
    torch.testing.assert_close(found[~away], (start + 2 * (end - start)).expand(40, 5, 8)[~away])


@pytest.mark.parametrize("name", ["rk2", "predictor_corrector", "implicit"])
def test_what_a_network_says_without_hooks_is_the_same_before_and_after(name: str) -> None:
    made = network(MEMORYLESS[name])
    before = made(None, TOKENS)
    loss(regularised(made, StochasticDepth(0.9)), made)
    assert torch.equal(made(None, TOKENS), before)
    assert not any(module._forward_hooks for module in made.modules())


@pytest.mark.parametrize(
    ("name", "regulariser"),
    [
        # The continuous one has no layers and is refused, see below.
        *((name, functools.partial(StateSmoothness, 1.0)) for name in EVERY if name != "continuous"),
        *((name, functools.partial(JacobianFrobenius, 1.0)) for name in EVERY),
        *((name, SpectralNorm) for name in EVERY),
    ],
)
def test_gradients_agree_with_finite_differences(name: str, regulariser) -> None:
    made = network(EVERY[name], depth=2)
    objective = regularised(made, regulariser())
    weights = list(made.parameters())
    grads = torch.autograd.grad(loss(objective, made).total, weights, allow_unused=True)
    draws = torch.Generator().manual_seed(5)
    along = [torch.randn(weight.shape, generator=draws, dtype=D) for weight in weights]
    slope = sum((g * v).sum() for g, v in zip(grads, along, strict=True) if g is not None)
    ends = []
    for move in (1e-6, -2e-6):
        with torch.no_grad():
            for weight, v in zip(weights, along, strict=True):
                weight.add_(move * v)
        ends.append(loss(objective, made).total.item())
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "regulariser", "message"),
    [
        (Leapfrog, StochasticDepth, "network.integrator = Leapfrog carries a velocity"),
        (ADJOINT, StochasticDepth, "network.integrator = Continuous has no residual layers"),
        (ADJOINT, StateSmoothness, "network.integrator = Continuous has no residual layers"),
        (ADJOINT, ParameterSmoothness, "network.integrator = Continuous has no two consecutive"),
        (ADJOINT, WeightTying, "network.integrator = Continuous has no two residual layers"),
        (ADJOINT, JacobianFrobenius, "network.integrator.gradient = DiscreteAdjoint cannot"),
    ],
)
def test_what_means_nothing_for_a_method_is_refused_by_its_key_with_a_cure(method, regulariser, message: str) -> None:
    with pytest.raises(RegulariserError, match=f"regularisers.one: {message}.*(remove it|choose a network)"):
        regularised(network(method), regulariser())
