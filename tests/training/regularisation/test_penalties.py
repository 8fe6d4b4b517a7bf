"""Penalties against closed forms on linear networks, and their gradients against finite differences."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.classifier import ResidualClassifier
from isocline.networks.mlp import MLP
from isocline.networks.ode_classifier import ODEClassifier
from isocline.networks.residual_layers import ResidualLayer
from isocline.networks.transformer import PatchTransformer, TokenTransformer
from isocline.networks.unet import UNet
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.objectives.base import Loss, Objective
from isocline.objectives.classification import Classification
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.processes.token_schedule import LinearSurvival
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import RK4
from isocline.solvers.gradient import Backpropagation, DiscreteAdjoint
from isocline.training.regularisation.base import AbstractPenalty
from isocline.training.regularisation.jacobian_frobenius import JacobianFrobenius, pulled_square
from isocline.training.regularisation.kinetic_energy import KineticEnergy
from isocline.training.regularisation.parameter_smoothness import ParameterSmoothness
from isocline.training.regularisation.regularised import Regularised, RegulariserError
from isocline.training.regularisation.state_smoothness import StateSmoothness

D = torch.float64
FLOW = GaussianProcess(LinearSchedule(), VelocityPrediction())


class Field(nn.Module):
    """f(t, x) = A x + b."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.to(D))
        self.shift = nn.Parameter(torch.ones(len(matrix), dtype=D))

    def forward(self, t, x, cond=None):
        return x @ self.matrix.mT + self.shift


class Layer(nn.Module):
    """x + A x."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix.to(D))

    def forward(self, x):
        return x + x @ self.matrix.mT


class Stack(nn.Module):
    """Residual layers that are linear."""

    def __init__(self, *matrices: torch.Tensor) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(matrix) for matrix in matrices)

    def residual_layers(self):
        return [ResidualLayer(layer) for layer in self.layers]

    def forward(self, t, x, cond=None):
        for layer in self.layers:
            x = layer(x)
        return x


class Evaluate(Objective):
    """Calls the network once at t = 1 and loses nothing."""

    def forward(self, network, batch, generator):
        return Loss(0 * network(torch.ones(len(batch.x0)), batch.x0, None).mean(), {})


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def points(count=5, d=3):
    return torch.randn(count, d, dtype=D, generator=stream(3))


def value_of(penalty, network, objective=None, x0=None, seed=0, cond=None):
    made = Regularised(objective or Evaluate(), {"penalty": penalty})
    made.prepare(network)
    return made(network, Batch(points() if x0 is None else x0, cond), stream(seed))


MATRIX = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [0.3, 0.0, 2.0]], dtype=D)


def test_squares_pulled_along_a_full_basis_sum_to_the_frobenius_norm():
    x = points().requires_grad_()
    y = Field(MATRIX)(None, x)
    total = sum(pulled_square(y, x, basis.expand_as(y)) for basis in torch.eye(3, dtype=D))
    torch.testing.assert_close(total.item(), MATRIX.square().sum().item() / 3, rtol=1e-6, atol=0)


def test_the_jacobian_penalty_of_a_linear_field_is_its_frobenius_norm_within_the_monte_carlo_error():
    x0 = points(4000)
    measured = float(value_of(JacobianFrobenius(1.0), Field(MATRIX), x0=x0).terms["penalty"])
    exact = float(MATRIX.square().sum() / 3)
    gram = MATRIX @ MATRIX.mT
    sd = math.sqrt(2 * float((gram.square().sum() - gram.diagonal().square().sum()) / 9) / len(x0))
    assert abs(measured - exact) < 4 * sd
    assert sd < 0.05 * exact


def test_the_jacobian_penalty_is_exact_where_outputs_do_not_share_inputs():
    measured = value_of(JacobianFrobenius(1.0), Field(torch.diag(torch.tensor([1.0, 2.0, 3.0]))))
    torch.testing.assert_close(float(measured.terms["penalty"]), 14 / 3, rtol=1e-6, atol=0)


def test_more_draws_have_the_same_mean_and_less_spread():
    def spread(draws):
        return torch.stack(
            [value_of(JacobianFrobenius(1.0, draws), Field(MATRIX), seed=k).terms["penalty"] for k in range(200)]
        )

    one, eight = spread(1), spread(8)
    assert float(eight.var()) == pytest.approx(float(one.var()) / 8, rel=0.4)
    assert float(one.mean()) == pytest.approx(float(MATRIX.square().sum()) / 3, abs=5 * float(one.std()) / 200**0.5)


def test_the_kinetic_energy_of_a_known_field_is_the_mean_square_of_its_velocity():
    field, x0 = Field(MATRIX), points()
    loss = value_of(KineticEnergy(0.5), field, x0=x0)
    expected = (x0 @ MATRIX.mT + 1).square().mean()
    assert float(loss.terms["penalty"]) == pytest.approx(float(expected))
    assert loss.total.item() == pytest.approx(0.5 * float(expected))
    assert float(loss.terms["objective"]) == 0


def test_what_a_noise_prediction_means_as_a_velocity_is_penalised():
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction())
    network = Field(MATRIX)
    seen = []
    network.register_forward_hook(lambda module, args, output: seen.append(args))
    loss = value_of(KineticEnergy(1.0), network, DenoisingMatching(process), x0=points(6))
    ((t, x, cond),) = seen
    expected = Denoiser(network, process).velocity(t, x, cond).detach().square().mean()
    assert float(loss.terms["penalty"]) == pytest.approx(float(expected), rel=1e-6)


def test_kinetic_energy_shrinks_a_matched_velocity_by_one_plus_its_weight():
    batch, weight = Batch(points(30)), 0.25

    def best(regularisers):
        field = Field(torch.zeros(3, 3))
        made = Regularised(DenoisingMatching(FLOW), regularisers)
        made.prepare(field)
        parameters = [field.matrix, field.shift]

        def loss(*values):
            for parameter, value in zip(parameters, values, strict=True):
                parameter.data = value.detach()
            return made(field, batch, stream(1)).total

        # A quadratic in few variables: one step of Newton's method, its Hessian from differences of gradients.
        flat = torch.zeros(12, dtype=D)

        def gradient(at):
            total = loss(at[:9].reshape(3, 3), at[9:])
            return torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])

        start = gradient(flat)
        hessian = torch.stack([gradient(flat + unit) - start for unit in torch.eye(12, dtype=D)])
        return -torch.linalg.solve(hessian, start)

    torch.testing.assert_close(best({"speed": KineticEnergy(weight)}), best({}) / (1 + weight))


def test_the_smoothness_of_parameters_is_the_sum_of_squared_differences():
    one, two, three = torch.zeros(3, 3), torch.full((3, 3), 2.0), torch.full((3, 3), 5.0)
    assert float(value_of(ParameterSmoothness(1.0), Stack(one, two, three)).terms["penalty"]) == 9 * 4 + 9 * 9


def test_it_vanishes_if_and_only_if_the_layers_are_equal():
    same = Stack(MATRIX, MATRIX.clone(), MATRIX.clone())
    assert float(value_of(ParameterSmoothness(1.0), same).terms["penalty"]) == 0
    with torch.no_grad():
        same.layers[2].matrix[0, 0] += 1e-3
    assert float(value_of(ParameterSmoothness(1.0), same).terms["penalty"]) == pytest.approx(1e-6)


def test_layers_of_other_shapes_are_passed_over():
    network = UNet(1, 8, 8, (1, 2))  # 8→8, 8→16, 16→16, 32→16, 24→8: no two neighbours alike
    with pytest.raises(RegulariserError, match=r"regularisers.penalty: UNet has no two consecutive .* remove it"):
        value_of(ParameterSmoothness(), network)
    network = UNet(1, 8, 8, (1, 2, 2))
    loss = value_of(ParameterSmoothness(1.0), network, DenoisingMatching(FLOW), torch.randn(2, 1, 8, 8))
    names = dict(network.down[2].named_parameters())
    expected = sum((names[k] - p).square().sum() for k, p in network.middle.named_parameters())
    expected = expected + sum((a - b).square().sum() for a, b in _both(network.up[0], network.up[1]))
    torch.testing.assert_close(loss.terms["penalty"], expected)


def _both(one, other):
    return zip(one.parameters(), other.parameters(), strict=True)


def test_the_smoothness_of_states_is_the_sum_of_mean_squared_increments():
    network, x0 = Stack(MATRIX, 0.1 * MATRIX), points()
    first = x0 @ MATRIX.mT
    second = 0.1 * (x0 + first) @ MATRIX.mT
    expected = first.square().mean() + second.square().mean()
    loss = value_of(StateSmoothness(1.0), network, x0=x0)
    assert float(loss.terms["penalty"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(value_of(StateSmoothness(1.0), Stack(0 * MATRIX, 0 * MATRIX)).terms["penalty"]) == 0


def test_the_states_of_branches_that_their_caller_adds_count_too():
    torch.manual_seed(0)
    network = ResidualClassifier(1, 8, 3, 8, blocks=2)
    x = torch.randn(4, 1, 8, 8)
    states = [network.stem(x)]
    for index, block in enumerate(network.blocks):
        states.append(states[-1] + block(torch.tensor(index / 2), states[-1]))
    expected = sum((b - a).square().mean() for a, b in pairwise(states))
    loss = value_of(StateSmoothness(1.0), network, Classification(), x, cond=torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(loss.terms["penalty"], expected)


def _network_cases():
    torch.manual_seed(1)
    images = torch.randn(2, 1, 8, 8, dtype=D)
    flow = DenoisingMatching(FLOW)
    patch, unet = PatchTransformer(1, 8, 4, 8, 2, 2), UNet(1, 8, 8, (1, 1, 1))
    tokens, labels = torch.randint(0, 4, (2, 6)), torch.tensor([0, 2])
    causal = TokenTransformer(5, 6, 8, 2, 2, causal=True, time_conditioned=False)
    masked = TokenTransformer(5, 6, 8, 2, 2, relative=True)
    node = ODEClassifier(1, 8, 3, RK4(), ConstantSteps(2), Backpropagation(), 8)
    residual = ResidualClassifier(1, 8, 3, 8, blocks=2)
    mask = MaskedDiffusion(AbsorbingKernel(5, LinearSurvival()))
    text, pictures = (AutoregressiveObjective(), tokens, None), (Classification(), images, labels)
    yield "jacobian of patches", JacobianFrobenius(1.0), patch, flow, images, None
    yield "jacobian of a U-Net", JacobianFrobenius(1.0), unet, flow, images, None
    yield "jacobian of a causal Transformer", JacobianFrobenius(1.0), causal, *text
    yield "jacobian of a masked Transformer", JacobianFrobenius(1.0), masked, mask, tokens, None
    yield "jacobian of a classifier", JacobianFrobenius(1.0), residual, *pictures
    yield "jacobian of a neural ODE", JacobianFrobenius(1.0), node, *pictures
    yield "kinetic energy of patches", KineticEnergy(1.0), patch, flow, images, None
    yield "kinetic energy of a neural ODE", KineticEnergy(1.0), node, *pictures
    yield "kinetic energy of a perceptron", KineticEnergy(1.0), MLP(3, 8, 2), flow, points(), None
    yield "states of a U-Net", StateSmoothness(1.0), unet, flow, images, None
    yield "states of a causal Transformer", StateSmoothness(1.0), causal, *text
    yield "states of a masked Transformer", StateSmoothness(1.0), masked, mask, tokens, None
    yield "parameters of a Transformer", ParameterSmoothness(1.0), patch, flow, images, None
    yield "parameters of a U-Net", ParameterSmoothness(1.0), unet, flow, images, None


@pytest.mark.parametrize(
    ("penalty", "network", "objective", "x0", "cond"),
    [pytest.param(*rest, id=name) for name, *rest in _network_cases()],
)
def test_gradients_agree_with_finite_differences(penalty, network, objective, x0, cond):
    network = network.to(D)
    torch.manual_seed(5)
    with torch.no_grad():  # zero-initialised gates would hide most of the network
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    batch, made = Batch(x0, cond), Regularised(objective, {"penalty": penalty})
    made.prepare(network)

    def penalised():
        loss = made(network, batch, stream(2))
        return loss.total - made.objective(network, batch, stream(2)).total

    grads = torch.autograd.grad(penalised(), list(network.parameters()), allow_unused=True)
    direction = [torch.randn_like(p) for p in network.parameters()]
    slope = sum((g * v).sum() for g, v in zip(grads, direction, strict=True) if g is not None)
    step = 1e-6
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, v in zip(network.parameters(), direction, strict=True):
                parameter.add_(sign * step * v)
        ends.append(penalised().item())
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)
    assert abs(float(slope)) > 1e-3


@pytest.mark.parametrize(
    ("penalty", "network", "objective", "message"),
    [
        (StateSmoothness(), MLP(2), DenoisingMatching(FLOW), "MLP has no residual layers"),
        (KineticEnergy(), MLP(2), ContinuousMaximumLikelihood(), "set objective.kinetic"),
        (JacobianFrobenius(), MLP(2), ContinuousMaximumLikelihood(), "set objective.jacobian"),
        (KineticEnergy(), TokenTransformer(5, 6, 8, 2, 2), AutoregressiveObjective(), "take state_smoothness"),
        (KineticEnergy(), ResidualClassifier(1, 8, 3, 8), Classification(), "take state_smoothness"),
        (
            JacobianFrobenius(),
            ODEClassifier(1, 8, 3, RK4(), ConstantSteps(2), DiscreteAdjoint(), 8),
            Classification(),
            r"network.gradient = DiscreteAdjoint.* backpropagation",
        ),
    ],
)
def test_what_a_penalty_means_nothing_for_is_refused_with_a_cure(penalty, network, objective, message):
    with pytest.raises(RegulariserError, match=message):
        Regularised(objective, {"penalty": penalty}).prepare(network)


class ForwardMode(Objective):
    """Evaluates the network within a derivative in forward mode alone."""

    def forward(self, network, batch, generator):
        out, slope = torch.func.jvp(lambda x: network(torch.ones(5), x, None), (batch.x0,), (batch.x0,))
        return Loss((out + slope).mean(), {})


@pytest.mark.parametrize("penalty", [KineticEnergy(), JacobianFrobenius(), StateSmoothness()])
def test_evaluations_that_end_with_their_transform_are_not_read(penalty):
    with pytest.raises(RegulariserError, match="remove it"):
        value_of(penalty, Stack(MATRIX), ForwardMode())
    assert float(value_of(ParameterSmoothness(), Stack(MATRIX, 2 * MATRIX), ForwardMode()).terms["penalty"]) > 0


@pytest.mark.parametrize("kind", [KineticEnergy, JacobianFrobenius, StateSmoothness, ParameterSmoothness])
@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_that_is_negative_or_not_finite_is_refused(kind: type[AbstractPenalty], weight: float):
    with pytest.raises(ValueError, match="weight = "):
        kind(weight)
