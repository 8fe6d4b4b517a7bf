"""Whatever the field uses is found, or there is an error: no gradient is lost in silence."""

import functools

import pytest
import torch

from isocline.solvers import ConstantSteps, EulerMaruyama, ODEProblem, PIDController, SDEProblem, Tsit5, solve
from isocline.solvers.brownian import VirtualBrownianTree
from isocline.solvers.gradient import Backpropagation, BacksolveAdjoint, CheckpointedAdjoint, DiscreteAdjoint
from isocline.solvers.semilinear import DenseLinear, SemilinearProblem

F64 = torch.float64
GLOBAL = torch.tensor(0.7, dtype=F64, requires_grad=True)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Linear(2, 2, dtype=F64)
        self.unused = torch.nn.Linear(2, 2, dtype=F64)

    def forward(self, t, y, cond):
        return self.inner(y).tanh()

    def other(self, t, y, cond):
        return self.inner(y).sin()


class Wrapper:
    def __init__(self, inner, scale):
        self.inner, self.scale = inner, scale

    def __call__(self, t, y, cond):
        return self.scale * self.inner(t, y, cond)


def start():
    return torch.linspace(-1, 1, 6, dtype=F64).reshape(3, 2)


def gradients(field, wanted, gradient, y0=None, **options):
    problem = ODEProblem(field, start() if y0 is None else y0, 0.0, 1.0, **options)
    solution = solve(problem, Tsit5(), ConstantSteps(4), gradient=gradient)
    return torch.autograd.grad(solution.final.square().sum(), wanted, retain_graph=True)


def check(field, wanted, **options):
    found = gradients(field, wanted, DiscreteAdjoint(), **options)
    expected = gradients(field, wanted, Backpropagation(), **options)
    for value, other in zip(found, expected, strict=True):
        assert torch.allclose(value, other, rtol=1e-10)


def test_a_module_is_found_and_its_unused_parameters_have_no_gradient():
    net = Network()
    check(net, list(net.inner.parameters()))
    problem = ODEProblem(net, start(), 0.0, 1.0)
    solve(problem, Tsit5(), ConstantSteps(4), gradient=DiscreteAdjoint()).final.sum().backward()
    assert net.inner.weight.grad is not None
    assert net.unused.weight.grad is None


def test_a_bound_method_a_partial_a_wrapper_and_a_closure_are_found():
    net, scale = Network(), torch.tensor(1.5, dtype=F64, requires_grad=True)
    parameters = [scale, *net.inner.parameters()]
    check(net.other, parameters[1:])
    check(Wrapper(net.other, scale), parameters)
    check(functools.partial(lambda s, t, y, cond: s * net(t, y, cond), scale), parameters)
    check(lambda t, y, cond: scale * net(t, y, cond), parameters)
    check(lambda t, y, cond: GLOBAL * y, [GLOBAL])


def test_a_network_that_is_used_only_later_is_found_where_the_field_holds_it():
    early, late = Network(), Network()

    def field(t, y, cond):
        return early(t, y, cond) if float(t) < 0.4 else late(t, y, cond)

    check(field, [*early.inner.parameters(), *late.inner.parameters()])


def test_a_tensor_computed_before_is_found_where_the_field_holds_it():
    raw = torch.tensor(0.2, dtype=F64, requires_grad=True)
    scale = raw.exp()
    check(lambda t, y, cond: scale * y, [raw])
    check(Wrapper(lambda t, y, cond: y.sin(), scale), [raw])
    check(functools.partial(lambda s, t, y, cond: s * y, scale), [raw])


def test_a_tensor_that_is_out_of_sight_is_an_error_unless_it_is_named():
    raw = torch.tensor(0.2, dtype=F64, requires_grad=True)
    scale = raw.exp()
    hidden = iter(lambda: scale, None)

    def field(t, y, cond):
        return next(hidden) * y

    with pytest.raises(
        ValueError, match=r"computed outside of it; hand them over in cond, or name them in parameters="
    ):
        gradients(field, [raw], DiscreteAdjoint())
    (found,) = gradients(field, [raw], DiscreteAdjoint(parameters=[scale]))
    assert torch.allclose(found, gradients(field, [raw], Backpropagation())[0])


def test_a_parameter_used_beside_a_tensor_computed_from_it_is_an_error():
    raw = torch.tensor(0.2, dtype=F64, requires_grad=True)
    scale = raw.exp()
    with pytest.raises(ValueError, match="hand that tensor over in cond"):
        gradients(lambda t, y, cond: scale * raw * y, [raw], DiscreteAdjoint())


def test_tensors_in_cond_have_gradients_wherever_they_are():
    per_sample = torch.linspace(1, 2, 3, dtype=F64)[:, None].requires_grad_()
    shared = torch.tensor(0.3, dtype=F64, requires_grad=True)
    constant = torch.ones(3, 1, dtype=F64)

    def field(t, y, cond):
        return cond["a"][1] * y + cond["b"] * constant * y.sin()

    check(field, [per_sample, shared], cond={"a": ("name", per_sample), "b": shared, "c": constant, "d": None})


@pytest.mark.parametrize("gradient", [DiscreteAdjoint(), CheckpointedAdjoint()])
def test_a_start_computed_by_the_module_that_holds_the_field_is_counted_once(gradient):
    """Its history leads to parameters that are also inputs; second derivatives take the way through both."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Parameter(torch.tensor(0.4, dtype=F64))
            self.rate = torch.nn.Parameter(torch.tensor(0.6, dtype=F64))

        def field(self, t, y, cond):
            return self.rate * y.sin()

    model = Model()

    def derivatives(method):
        y0 = model.encoder * start()
        solution = solve(ODEProblem(model.field, y0, 0.0, 1.0), Tsit5(), ConstantSteps(3), gradient=method)
        first = torch.autograd.grad(solution.final.square().sum(), [model.encoder, model.rate], create_graph=True)
        return [*first, *torch.autograd.grad(first[0] * first[1], [model.encoder, model.rate])]

    for value, other in zip(derivatives(gradient), derivatives(Backpropagation()), strict=True):
        assert torch.allclose(value, other, rtol=1e-10)


def test_a_tensor_may_be_in_cond_and_in_the_field():
    scale = torch.tensor(0.3, dtype=F64, requires_grad=True)
    check(lambda t, y, cond: scale * cond * y, [scale], cond=scale)


def test_a_parameter_changed_in_place_before_the_backward_pass_is_an_error():
    net = Network()
    solution = solve(ODEProblem(net, start(), 0.0, 1.0), Tsit5(), ConstantSteps(4), gradient=DiscreteAdjoint())
    with torch.no_grad():
        net.inner.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        solution.final.sum().backward()


def test_other_parameters_of_the_module_may_change():
    net = Network()
    solution = solve(ODEProblem(net, start(), 0.0, 1.0), Tsit5(), ConstantSteps(4), gradient=DiscreteAdjoint())
    with torch.no_grad():
        net.unused.weight.mul_(2)
    solution.final.sum().backward()


def test_the_linear_part_of_a_semilinear_problem_is_found():
    raw = torch.tensor([[0.0, 1.0], [-1.0, 0.2]], dtype=F64, requires_grad=True)

    def derivative(gradient):
        problem = SemilinearProblem(DenseLinear(2 * raw), lambda t, y, cond: y.sin(), start(), 0.0, 1.0)
        solution = solve(problem, Tsit5(), ConstantSteps(4), gradient=gradient)
        return torch.autograd.grad(solution.final.square().sum(), raw, retain_graph=True)[0]

    assert torch.allclose(derivative(DiscreteAdjoint()), derivative(Backpropagation()), rtol=1e-10)


def test_drift_and_diffusion_of_a_path_are_differentiated_along_it():
    drift, raw = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (-0.4, 0.3))
    noise = 2 * raw

    def derivative(gradient):
        problem = SDEProblem(
            lambda t, y, cond: drift * y,
            lambda t, y, cond: noise * y,
            start(),
            0.0,
            1.0,
            noise=VirtualBrownianTree(0, 0.0, 1.0),
        )
        solution = solve(problem, EulerMaruyama(), ConstantSteps(8), gradient=gradient)
        return torch.autograd.grad(solution.final.square().sum(), [drift, raw], retain_graph=True)

    for value, other in zip(derivative(DiscreteAdjoint()), derivative(Backpropagation()), strict=True):
        assert torch.allclose(value, other, rtol=1e-10)


def test_a_field_that_closes_over_tensors_of_the_batch_is_tried_on_all_of_it():
    scale = torch.linspace(1, 2, 3, dtype=F64)[:, None].requires_grad_()
    check(lambda t, y, cond: scale * y.sin(), [scale])


@pytest.mark.parametrize("name", ["y0", "cond"])
@pytest.mark.parametrize("gradient", [DiscreteAdjoint(), CheckpointedAdjoint(), BacksolveAdjoint()])
def test_a_start_or_condition_changed_in_place_before_the_backward_pass_is_an_error(gradient, name):
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    given = {"y0": torch.ones(2, 1, dtype=torch.float64), "cond": torch.ones(2, 1, dtype=torch.float64)}
    problem = ODEProblem(lambda t, y, c: weight * c * torch.sin(y), given["y0"], 0.0, 1.0, given["cond"])
    final = solve(problem, Tsit5(), PIDController(1e-6, 1e-6), gradient=gradient).final
    given[name].add_(1)
    with pytest.raises(RuntimeError, match=r"of shape \(2, 1\) that the solve used .* changed in place"):
        final.sum().backward()
