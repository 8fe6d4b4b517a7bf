"""Changes of the network: norms, tied weights, branches left out; and that a trained network is an ordinary one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.adapter import Adapted
from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.classifier import ResidualClassifier
from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.mlp import MLP
from isocline.networks.residual_layers import ResidualLayer
from isocline.networks.transformer import PatchTransformer, TokenTransformer
from isocline.networks.unet import UNet
from isocline.objectives.base import Loss, Objective
from isocline.objectives.classification import Classification
from isocline.objectives.matching import DenoisingMatching
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.training.regularisation.jacobian_frobenius import JacobianFrobenius
from isocline.training.regularisation.lipschitz_cap import LipschitzCap
from isocline.training.regularisation.matrices import linear_maps, power_step, start
from isocline.training.regularisation.parameter_smoothness import ParameterSmoothness
from isocline.training.regularisation.regularised import Regularised, RegulariserError
from isocline.training.regularisation.spectral_norm import SpectralNorm
from isocline.training.regularisation.stochastic_depth import StochasticDepth
from isocline.training.regularisation.weight_tying import WeightTying

FLOW = GaussianProcess(LinearSchedule(), VelocityPrediction())
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(depth=3):
    torch.manual_seed(0)
    return PatchTransformer(1, 8, 4, 8, depth, 2)


def unet():
    torch.manual_seed(0)
    return UNet(1, 8, 8, (1, 2))


def adapted():
    """An adapter by its class alone: making one imports what makes them, which takes seconds."""
    network = Adapted.__new__(Adapted)
    nn.Module.__init__(network)
    return network


def trained(network, regularisers, steps=12, lr=0.1, objective=None):
    """Train as the training loop does; return the objective, the network and its average."""
    made = Regularised(objective or DenoisingMatching(FLOW), regularisers)
    made.prepare(network)
    average = ExponentialMovingAverage(network, 0.5)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        made(network, Batch(IMAGES), stream(step)).total.backward()
        optimizer.step()
        made.after_step(network, step + 1)
        average.update(network)
    return made, network, average.network


def norms(network):
    return torch.stack([torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2) for m in linear_maps(network)])


def test_power_iteration_finds_the_largest_singular_value_from_below():
    weight = torch.randn(7, 5, generator=stream(1))
    exact, left = torch.linalg.matrix_norm(weight, 2), start(weight, 0)
    for _ in range(60):
        found = power_step(weight, left)
        assert found.value <= exact * (1 + 1e-6)
        left = found.left
    torch.testing.assert_close(found.value, exact)


def test_a_matrix_of_zeros_leaves_the_vector_for_the_day_when_it_grows():
    left = start(torch.zeros(4, 3), 0)
    assert float(left.norm()) == pytest.approx(1)
    assert torch.equal(power_step(torch.zeros(4, 3), left).left, left)


@pytest.mark.parametrize("build", [patches, unet, lambda: MLP(64, 16)])
def test_no_linear_map_of_a_trained_average_exceeds_the_cap(build):
    class Flat(Objective):
        def forward(self, network, batch, generator):
            return Loss(-network(torch.ones(6), batch.x0.flatten(1), None).square().mean(), {})

    objective = Flat() if isinstance(build(), MLP) else None
    free = norms(trained(build(), {}, lr=0.3, objective=objective)[1])
    made, network, average = trained(build(), {"cap": LipschitzCap(0.7)}, lr=0.3, objective=objective)
    assert float(free.max()) > 0.8
    assert float(norms(network).max()) < 0.7 * 1.1  # followed from below
    made.release(average)
    average.requires_grad_(True)
    assert float(norms(average).max()) <= 0.7 * (1 + 1e-5)
    assert float(norms(average).max()) > 0.69


def test_the_logged_norm_is_what_the_last_step_led_to():
    made, network, _ = trained(patches(), {"cap": LipschitzCap(0.7)}, lr=0.3)
    logged = float(made(network, Batch(IMAGES), stream()).terms["cap"])
    assert 0.7 < logged < 1.5


@pytest.mark.parametrize("build", [patches, unet])
def test_spectral_normalisation_fixes_the_norms_and_leaves_an_ordinary_network(build):
    names = {name: p.shape for name, p in build().state_dict().items()}
    zero = [not bool(m.weight.any()) for m in linear_maps(build())]
    made, network, average = trained(build(), {"spectral": SpectralNorm(0.8)})
    inside, t = norms(network), torch.linspace(0.1, 0.9, 6)
    torch.testing.assert_close(inside[~torch.tensor(zero)], torch.full((zero.count(False),), 0.8), rtol=0.05, atol=0)
    before = average(t, IMAGES)
    made.release(average)
    assert {name: p.shape for name, p in average.state_dict().items()} == names
    assert type(average) is type(build())
    average.requires_grad_(True)
    final = norms(average)
    torch.testing.assert_close(final[~torch.tensor(zero)], torch.full((zero.count(False),), 0.8))
    assert float(final[torch.tensor(zero)].max()) <= 0.8 * (1 + 1e-5)
    torch.testing.assert_close(average(t, IMAGES), before, rtol=0.1, atol=0.05)
    build().load_state_dict(average.state_dict())


def test_a_step_along_a_normalised_weight_does_nothing():
    made, network, _ = trained(patches(), {"spectral": SpectralNorm()}, steps=1)
    layer = network.trunk.blocks[0].mlp[0]
    for _ in range(30):
        made.after_step(network, 1)
    loss = made(network, Batch(IMAGES), stream()).total
    original = layer.parametrizations.weight.original
    (slope,) = torch.autograd.grad(loss, original)
    assert (slope * original).sum().abs().item() < 1e-4 * (slope.norm() * original.norm()).item() + 1e-9


def test_tied_layers_share_their_storage_and_their_gradient_is_the_sum():
    network, alone = patches(), patches()
    Regularised(DenoisingMatching(FLOW), {"tying": WeightTying()}).prepare(network)
    for block in network.trunk.blocks[1:]:
        for one, other in zip(network.trunk.blocks[0].parameters(), block.parameters(), strict=True):
            assert one is other
    alone.load_state_dict(network.state_dict())
    with torch.no_grad():
        for blocks in (network.trunk.blocks[:1], alone.trunk.blocks):
            for block in blocks:
                block.modulation.bias.fill_(0.3)
        network.head.weight.fill_(0.1), alone.head.weight.fill_(0.1)
    for model in (network, alone):
        DenoisingMatching(FLOW)(model, Batch(IMAGES), stream()).total.backward()
    for name, tied in network.trunk.blocks[0].named_parameters():
        parts = sum(block.get_parameter(name).grad for block in alone.trunk.blocks)
        torch.testing.assert_close(tied.grad, parts)
        assert tied.grad.any()


def test_averages_of_tied_networks_are_tied_and_load_into_an_ordinary_one():
    made, _, average = trained(patches(), {"tying": WeightTying(), "spectral": SpectralNorm()})
    made.release(average)
    blocks = average.trunk.blocks
    assert blocks[0].mlp[0].weight is blocks[2].mlp[0].weight
    assert sum(p.numel() for p in average.parameters()) == sum(p.numel() for p in patches(1).parameters())
    plain = patches()
    plain.load_state_dict(average.state_dict())
    t = torch.linspace(0.1, 0.9, 6)
    assert torch.equal(plain.eval()(t, IMAGES), average(t, IMAGES))


class Layer(nn.Module):
    def __init__(self, matrix, adds):
        super().__init__()
        self.matrix, self.adds = nn.Parameter(matrix), adds

    def forward(self, x):
        return x + x @ self.matrix if self.adds else x @ self.matrix


class Linear(nn.Module):
    """Residual layers that add, or whose caller adds."""

    def __init__(self, adds):
        super().__init__()
        draws = torch.randn(3, 4, 4, generator=stream(8), dtype=torch.float64)
        self.layers, self.adds = nn.ModuleList(Layer(0.5 * draw, adds) for draw in draws), adds

    def residual_layers(self):
        return [ResidualLayer(layer, self.adds) for layer in self.layers]

    def forward(self, t, x, cond=None):
        for layer in self.layers:
            x = layer(x) if self.adds else x + layer(x)
        return x


class Keep(Objective):
    """Calls the network twice and keeps what it says."""

    def forward(self, network, batch, generator):
        self.said = [network(torch.ones(len(batch.x0)), batch.x0, None) for _ in range(2)]
        return Loss(self.said[0].mean(), {})


@pytest.mark.parametrize("adds", [True, False])
def test_the_mean_over_branches_left_out_is_the_network_itself(adds):
    network, objective = Linear(adds), Keep()
    x = torch.randn(1, 4, generator=stream(2), dtype=torch.float64).expand(40_000, 4)
    made = Regularised(objective, {"depth": StochasticDepth(0.6)})
    made.prepare(network)
    made(network, Batch(x), stream())
    said = objective.said[0].detach()
    error = said.std(0) / len(said) ** 0.5
    assert bool(((said.mean(0) - network(None, x[:1])[0]).abs() < 4.5 * error).all())
    assert bool((error < 0.05).all())
    assert len({tuple(row) for row in said[:500].tolist()}) == 8  # three branches, each there or not


def test_branches_are_left_out_at_a_rate_that_rises_linearly():
    network, objective = Linear(True), Keep()
    network.layers[1].matrix.data.zero_(), network.layers[2].matrix.data.zero_()
    made = Regularised(objective, {"depth": StochasticDepth(0.6)})
    x = torch.ones(20_000, 4, dtype=torch.float64)
    loss = made(network, Batch(x), stream())
    kept = (objective.said[0].detach() != x).any(1).double().mean()
    assert float(kept) == pytest.approx(1 - 0.2, abs=0.01)
    assert float(loss.terms["depth"]) == pytest.approx(1 - 0.4, abs=0.01)
    moved = (objective.said[0].detach() - x)[(objective.said[0] != x).any(1)]
    torch.testing.assert_close(moved[0], (x @ network.layers[0].matrix)[0].detach() / 0.8)


def test_evaluations_of_a_step_leave_out_the_same_branches_and_steps_others():
    network, objective = Linear(True), Keep()
    made = Regularised(objective, {"depth": StochasticDepth(0.5)})
    x = torch.ones(50, 4, dtype=torch.float64)
    said = []
    for seed in (0, 0, 1):
        made(network, Batch(x), stream(seed))
        assert torch.equal(*objective.said)
        said.append(objective.said[0])
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])


def test_a_network_in_evaluation_mode_and_one_outside_the_objective_are_whole():
    network, objective = Linear(True), Keep()
    made = Regularised(objective, {"depth": StochasticDepth(0.5)})
    x = torch.ones(5, 4, dtype=torch.float64)
    whole = network(None, x)
    made(network, Batch(x), stream())
    assert torch.equal(network(None, x), whole)
    network.eval()
    assert made(network, Batch(x), stream()).terms.keys() == {"objective"}
    assert torch.equal(objective.said[0], whole)
    assert not any(module._forward_hooks for module in network.modules())


class Late(Objective):
    """Draws before and after it evaluates the network."""

    def forward(self, network, batch, generator):
        t = torch.rand(len(batch.x0), generator=generator)
        said = network(t, batch.x0, None)
        return Loss((said - torch.randn(said.shape, generator=generator)).square().mean(), {})


def test_draws_of_the_objective_are_those_of_a_run_without_regularisers():
    plain = Late()(patches(), Batch(IMAGES), stream(4))
    made = Regularised(Late(), {"depth": StochasticDepth(0.0), "jacobian": JacobianFrobenius(0.0)})
    loss = made(patches(), Batch(IMAGES), stream(4))
    torch.testing.assert_close(loss.total, plain.total)
    assert torch.equal(loss.terms["objective"], loss.total.detach())


@pytest.mark.parametrize(
    ("regularisers", "network", "message"),
    [
        ({"tie": WeightTying()}, lambda: MLP(2), "tie: MLP has no two residual layers to tie"),
        ({"tie": WeightTying()}, unet, "tie: the residual layers of UNet differ in shape"),
        ({"near": ParameterSmoothness(), "tie": WeightTying()}, patches, "near: the layers share their parameters"),
        ({"cap": LipschitzCap(), "norm": SpectralNorm()}, patches, "cap: the weights are normalised already"),
        ({"drop": StochasticDepth()}, lambda: MLP(2), "drop: MLP has no residual layers"),
        ({"norm": SpectralNorm()}, adapted, "norm: an adapter's factors"),
        ({"norm": SpectralNorm()}, nn.Identity, "norm: Identity has no linear map"),
    ],
)
def test_combinations_that_mean_nothing_are_refused_by_name(regularisers, network, message):
    with pytest.raises(RegulariserError, match=f"regularisers.{message}"):
        Regularised(DenoisingMatching(FLOW), regularisers).prepare(network())


@pytest.mark.parametrize("made", [WeightTying, LipschitzCap, SpectralNorm, StochasticDepth, ParameterSmoothness])
def test_a_composition_is_checked_without_memory(made):
    with torch.device("meta"):
        network = patches()
    Regularised(DenoisingMatching(FLOW), {"one": made()}).fit_network(network)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_layers_that_an_objective_takes_apart_cannot_be_left_out():
    network = BlockTransformer(5, 4, 8, 2, 2, block_length=2)

    class Calls(Objective):
        def forward(self, network, batch, generator):
            return Loss(network(None, batch.x0, None).mean(), {})

    made = Regularised(Calls(), {"drop": StochasticDepth()})
    with pytest.raises(RegulariserError, match="evaluates no residual layer of BlockTransformer"):
        made(network, Batch(torch.zeros(2, 4, dtype=torch.int64)), stream())


@pytest.mark.parametrize("name", ["loss", "lr", "step", "objective"])
def test_names_of_columns_of_the_training_curve_are_refused(name):
    with pytest.raises(RegulariserError, match="choose another name"):
        Regularised(Classification(), {name: WeightTying()})


def test_a_name_that_the_objective_logs_under_is_refused():
    made = Regularised(DenoisingMatching(FLOW), {"mse": StochasticDepth()})
    with pytest.raises(RegulariserError, match="has a term of that name"):
        made(patches(), Batch(IMAGES), stream())


@pytest.mark.parametrize("made", [lambda: StochasticDepth(1.0), lambda: LipschitzCap(0.0), lambda: SpectralNorm(-1.0)])
def test_values_out_of_range_are_refused(made):
    with pytest.raises(ValueError, match=r"(rate|bound) = "):
        made()


def test_a_residual_classifier_and_a_text_model_take_all_structural_ones():
    torch.manual_seed(0)
    for network, args in (
        (ResidualClassifier(1, 8, 3, 8, blocks=3), (IMAGES,)),
        (TokenTransformer(5, 6, 8, 3, 2), (torch.rand(2), torch.randint(0, 4, (2, 6)))),
    ):
        whole = copy.deepcopy(network)
        made = Regularised(Classification(), {"tie": WeightTying(), "cap": LipschitzCap(), "drop": StochasticDepth()})
        made.prepare(network)
        network(*args)
        whole.load_state_dict(network.state_dict())
