"""A neural ODE as a classifier, and the residual networks that it is the limit of."""

import math

import pytest
import torch

from isocline.networks.classifier import ConvolutionField, ResidualClassifier
from isocline.networks.ode_classifier import ODEClassifier
from isocline.solvers import RK4, Bosh3, ConstantSteps, Euler, PIDController, Tsit5

F64 = torch.float64
TIGHT = PIDController(rtol=1e-9, atol=1e-9)


def images(count=3, size=16, dtype=F64):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2 - 1


def network(stepper, controller, gradient=None, width=8):
    torch.manual_seed(0)
    made = ODEClassifier(1, 16, 10, stepper, controller, gradient, width).double()
    with torch.no_grad():
        made.field.drift.normal_(std=0.3)
    return made


def test_time_enters_the_field_as_a_bias_of_each_convolution():
    torch.manual_seed(0)
    field = ConvolutionField(8).double()
    torch.nn.init.normal_(field.drift)
    x = torch.randn(2, 8, 4, 4, dtype=F64)
    t = torch.tensor([0.3, 0.7], dtype=F64)
    for row in range(2):
        shifted = ConvolutionField(8).double()
        shifted.load_state_dict(field.state_dict())
        with torch.no_grad():
            for convolution, drift in zip(shifted.convolutions, field.drift, strict=True):
                convolution.bias += t[row] * drift.flatten()
        alone = shifted(torch.zeros((), dtype=F64), x[row : row + 1])
        assert torch.allclose(field(t, x)[row : row + 1], alone, rtol=1e-12)


def test_euler_steps_are_a_residual_network_with_shared_weights():
    made, x, n = network(Euler(), ConstantSteps(5)), images(), 5
    h = made.stem(x)
    for step in range(n):
        h = h + made.field(torch.tensor(step / n, dtype=F64), h) / n
    answer = made(x)
    assert torch.allclose(answer.logits, made.head(made.readout(h)), rtol=1e-12)
    assert answer.nfe.tolist() == [n] * 3


def test_a_single_residual_block_is_one_euler_step():
    ode = network(Euler(), ConstantSteps(1))
    residual = ResidualClassifier(1, 16, 10, width=8, blocks=1).double()
    state = {name.replace("field.", "blocks.0."): value for name, value in ode.state_dict().items()}
    residual.load_state_dict(state)
    assert torch.equal(ode(images()).logits, residual(images()).logits)


def test_blocks_have_weights_of_their_own_and_are_counted():
    single, six = (ResidualClassifier(1, 16, 10, width=8, blocks=n) for n in (1, 6))
    block = sum(weight.numel() for weight in single.blocks.parameters())
    sizes = [sum(weight.numel() for weight in made.parameters()) for made in (single, six)]
    assert sizes[1] - sizes[0] == 5 * block
    assert six(images(dtype=torch.float32)).nfe.tolist() == [6] * 3


def test_more_steps_converge_to_the_solution_of_the_equation():
    limit = network(Tsit5(), TIGHT)(images()).logits
    errors = [(network(RK4(), ConstantSteps(n))(images()).logits - limit).abs().max().item() for n in (10, 20)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)


def test_every_image_is_classified_as_if_alone():
    made, x = network(Bosh3(), PIDController(1e-3, 1e-3)), images(5)
    x[0] *= 8
    together = made(x)
    for row in range(len(x)):
        alone = made(x[row : row + 1])
        assert torch.allclose(together.logits[row], alone.logits[0], rtol=1e-10, atol=1e-12)
        assert together.nfe[row] == alone.nfe[0]


@pytest.mark.parametrize(
    ("stepper", "controller"), [(Bosh3(), PIDController(1e-4, 1e-4)), (RK4(), ConstantSteps(3))], ids=["pid", "grid"]
)
def test_evaluations_are_the_calls_of_the_field(stepper, controller):
    made, rows = network(stepper, controller), []
    made.field.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[1])))
    with torch.no_grad():
        answer = made(images(4))
    assert sum(rows) == int(answer.nfe.sum())


def test_another_solver_shares_the_weights_and_leaves_the_network_as_it_was():
    made = network(Euler(), ConstantSteps(2))
    other = made.with_solver(controller=ConstantSteps(7))
    assert other(images()).nfe.tolist() == [7] * 3
    assert made(images()).nfe.tolist() == [2] * 3
    with torch.no_grad():
        made.head.bias += 1.0
    assert torch.equal(other.head.bias, made.head.bias)
    assert other.stepper is made.stepper


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 7}, "size = 7"),
        ({"classes": 1}, "classes = 1"),
        ({"width": 12}, "width = 12"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_what_cannot_be_built_is_named(change, named):
    with pytest.raises(ValueError, match=named):
        ResidualClassifier(**{"channels": 1, "size": 8, "classes": 10, **change})
