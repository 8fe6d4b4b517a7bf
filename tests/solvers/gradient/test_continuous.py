"""Continuous adjoints are gradients of the exact solution; backsolving warns where the way back is unstable."""

import warnings

import pytest
import torch

from isocline.solvers import (
    RK4,
    ConstantSteps,
    Dopri5,
    EulerMaruyama,
    ODEProblem,
    PIDController,
    SaveAt,
    SDEProblem,
    Tsit5,
    VirtualBrownianTree,
    solve,
)
from isocline.solvers.gradient import (
    AdjointWarning,
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
    InterpolatedAdjoint,
)

F64 = torch.float64
SAVES = {"end": SaveAt(), "times": SaveAt(ts=[0.9, 0.0, 0.4, 0.4, 1.3])}


class Pendulums:
    """Driven pendulums of their own frequencies, damped by a small network.

    Attributes:
        calls: calls of the field.
        rows: states that the field was asked about, in all calls.
    """

    def __init__(self, samples=4):
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).to(F64)
        self.y0 = torch.linspace(-1, 1.5, 2 * samples, dtype=F64).reshape(samples, 2).requires_grad_()
        self.rate = torch.linspace(0.5, 4, samples, dtype=F64)[:, None].requires_grad_()
        self.drive = torch.tensor(0.7, dtype=F64, requires_grad=True)
        self.calls = self.rows = 0

    def field(self, t, y, cond):
        self.calls += 1
        self.rows += len(y)
        rate, drive = cond
        turn = rate * torch.stack([y[:, 1], -y[:, 0].sin()], 1)
        return turn + 0.3 * self.net(y) + drive * torch.cos(3 * t).reshape(-1, 1)

    @property
    def leaves(self):
        return [self.y0, self.rate, self.drive, *self.net.parameters()]

    def solve(self, gradient, stepper, controller, saveat=None):
        problem = ODEProblem(self.field, self.y0, 0.0, 1.3, (self.rate, self.drive))
        return solve(problem, stepper, controller, saveat or SaveAt(), gradient=gradient)

    def gradients(self, gradient, stepper, controller, saveat=None):
        return torch.autograd.grad(loss(self.solve(gradient, stepper, controller, saveat)), self.leaves)


def loss(solution):
    weights = torch.linspace(1, 2, solution.ys.numel(), dtype=F64).reshape(solution.ys.shape)
    return (solution.ys.sin() * weights).sum()


def differences(run, leaf, places, step=1e-4):
    """Differences of order 4 of a scalar in some components of a leaf.

    Args:
        run: makes the scalar from nothing.
        leaf: the tensor that is moved in place.
        places: components, flattened.
        step: of the differences.
    """
    found = []
    for place in places:
        values = []
        with torch.no_grad():
            flat = leaf.view(-1)
            kept = flat[place].clone()
            for move in (-2, -1, 1, 2):
                flat[place] = kept + move * step
                values.append(run())
            flat[place] = kept
        found.append((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step))
    return torch.stack(found)


def assert_close(found, wanted, tolerance):
    for value, other in zip(found, wanted, strict=True):
        assert (value - other).abs().max() <= tolerance * other.abs().max()


CONTROLLERS = {
    "own": PIDController(1e-9, 1e-9),
    "joint": PIDController(1e-9, 1e-9, joint=True),
    "grid": ConstantSteps(60),
}


@pytest.mark.parametrize("saveat", SAVES.values(), ids=SAVES)
@pytest.mark.parametrize("controller", CONTROLLERS.values(), ids=CONTROLLERS)
@pytest.mark.parametrize("seminorm", [True, False])
def test_it_equals_backpropagation_at_tight_tolerance(seminorm, controller, saveat):
    pendulums = Pendulums()
    wanted = pendulums.gradients(Backpropagation(), Tsit5(), ConstantSteps(60), saveat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pendulums.gradients(BacksolveAdjoint(seminorm=seminorm), Tsit5(), controller, saveat)
    assert_close(found, wanted, 1e-6)


def test_it_equals_differences():
    pendulums = Pendulums()
    controller = PIDController(1e-10, 1e-10, joint=True)
    found = pendulums.gradients(BacksolveAdjoint(), Tsit5(), controller)

    def run():
        return loss(pendulums.solve(None, Tsit5(), controller))

    for leaf, gradient in zip(pendulums.leaves, found, strict=True):
        places = range(0, leaf.numel(), 9)
        wanted = differences(run, leaf, places)
        assert torch.allclose(gradient.flatten()[list(places)], wanted, rtol=1e-6, atol=1e-7)


def network_gradients(gradient, controller):
    """Gradients by a start and the weights of a network, and evaluations per sample on the way back."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)]
    net = torch.nn.Sequential(*layers).to(F64)
    y0 = torch.randn(16, 2, dtype=F64, requires_grad=True)
    rows = 0

    def field(t, y, cond):
        nonlocal rows
        rows += len(y)
        return net(torch.cat([y, t.reshape(-1, 1).expand(len(y), 1)], 1))

    solution = solve(ODEProblem(field, y0, 0.0, 5.0), Dopri5(), controller, gradient=gradient)
    rows = 0
    found = torch.autograd.grad(solution.final.square().sum(), [y0, *net.parameters()])
    return found, rows / 16


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_the_seminorm_finds_the_same_gradient_in_fewer_evaluations(tolerance):
    controller = PIDController(tolerance, tolerance, joint=True)
    exact, _ = network_gradients(DiscreteAdjoint(), PIDController(1e-10, 1e-10, joint=True))
    found, fewer = network_gradients(BacksolveAdjoint(), controller)
    plain, more = network_gradients(BacksolveAdjoint(seminorm=False), controller)
    assert fewer < more
    assert_close(found, exact, 10 * tolerance)
    assert_close(plain, exact, 10 * tolerance)


def test_the_gradient_of_a_mean_is_as_exact_as_that_of_a_sum():
    """The adjoint equation is scaled, so that absolute tolerances do not swallow small cotangents."""

    def gradients(scale):
        pendulums = Pendulums()
        total = scale * loss(pendulums.solve(BacksolveAdjoint(), Tsit5(), PIDController(1e-5, 1e-5)))
        return torch.autograd.grad(total, pendulums.leaves)

    small, large = gradients(1e-9), gradients(1.0)
    for value, other in zip(small, large, strict=True):
        assert torch.allclose(1e9 * value, other, rtol=1e-9, atol=1e-12)


def test_every_sample_is_solved_back_over_its_own_span():
    pendulums = Pendulums()
    t1 = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=F64)
    controller = PIDController(1e-10, 1e-10)

    def gradients(gradient):
        problem = ODEProblem(pendulums.field, pendulums.y0, 0.0, t1, (pendulums.rate, pendulums.drive))
        return torch.autograd.grad(loss(solve(problem, Tsit5(), controller, gradient=gradient)), pendulums.leaves)

    assert_close(gradients(BacksolveAdjoint()), gradients(DiscreteAdjoint()), 1e-6)
    with pytest.raises(ValueError, match="spans of their own"):
        gradients(BacksolveAdjoint(seminorm=False))


def test_the_way_back_may_have_another_stepper_and_controller():
    pendulums = Pendulums()
    wanted = pendulums.gradients(Backpropagation(), RK4(), ConstantSteps(200))
    method = BacksolveAdjoint(Dopri5(), PIDController(1e-9, 1e-9))
    assert_close(pendulums.gradients(method, RK4(), ConstantSteps(200)), wanted, 1e-6)


def test_complex_states_follow_the_convention_of_autograd():
    rate = torch.tensor(-0.4 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1.0 + 2.0j], [0.5 - 1.0j]], requires_grad=True, dtype=torch.complex128)

    def gradients(gradient):
        problem = ODEProblem(lambda t, y, c: rate * y + 0.1 * y.conj(), y0, 0.0, 1.0)
        solution = solve(problem, Tsit5(), PIDController(1e-10, 1e-10), gradient=gradient)
        return torch.autograd.grad(solution.final.abs().sum(), [y0, rate])

    for method in (BacksolveAdjoint(), BacksolveAdjoint(seminorm=False), InterpolatedAdjoint()):
        assert_close(gradients(method), gradients(Backpropagation()), 1e-6)


def oscillator(t, y, cond):
    """Van der Pol's, μ = 8: contracting by a factor of e^-60 or so in a period."""
    return torch.stack([y[:, 1], 8 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)


@pytest.mark.parametrize("controller", [PIDController(1e-6, 1e-6), ConstantSteps(1000)], ids=["adaptive", "grid"])
def test_a_contracting_oscillator_gives_a_warning_and_no_wrong_number(controller):
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64, requires_grad=True)
    problem = ODEProblem(oscillator, y0, 0.0, 10.0)
    solution = solve(problem, Tsit5(), controller, gradient=BacksolveAdjoint())
    with pytest.warns(AdjointWarning, match=r"take DiscreteAdjoint\(\) or CheckpointedAdjoint\(\)"):
        torch.autograd.grad(solution.final[0, 0], y0)


@pytest.mark.parametrize("method", [Backpropagation(), DiscreteAdjoint(), CheckpointedAdjoint(), InterpolatedAdjoint()])
def test_the_other_methods_differentiate_it_to_one_part_in_a_thousand(method):
    """The closed form is replaced by differences of a solution at 1e-13: -1.16496."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64, requires_grad=True)
    problem = ODEProblem(oscillator, y0, 0.0, 10.0)
    solution = solve(problem, Tsit5(), PIDController(1e-6, 1e-6), gradient=method)
    (found,) = torch.autograd.grad(solution.final[0, 0], y0)
    assert found[0].tolist() == pytest.approx([-1.16496099, -0.04862481], rel=1e-3)


def decay(check, **options):
    rate = torch.tensor(25.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    problem = ODEProblem(lambda t, y, cond: rate * (torch.cos(t).reshape(-1, 1) - y), y0, 0.0, 1.0)
    solution = solve(problem, Tsit5(), PIDController(1e-4, 1e-4), gradient=BacksolveAdjoint(check=check, **options))
    return torch.autograd.grad(solution.final.sum(), rate)[0]


def test_the_warning_names_sample_time_and_error_and_can_be_switched_off():
    with pytest.warns(AdjointWarning, match=r"the state of sample \d at t=0 was found again with a relative error of"):
        decay(check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decay(check=False)


def test_the_check_compares_with_the_given_tolerance():
    pendulums = Pendulums()
    with pytest.warns(AdjointWarning, match="tolerance 1e-12"):
        pendulums.gradients(BacksolveAdjoint(tolerance=1e-12), Tsit5(), PIDController(1e-4, 1e-4))


def test_a_way_back_that_fails_makes_the_gradient_nan_and_says_why():
    y0 = torch.tensor([[1.0]], dtype=F64, requires_grad=True)
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    problem = ODEProblem(lambda t, y, cond: -rate * y, y0, 0.0, 1.0)
    method = BacksolveAdjoint(controller=PIDController(1e-10, 1e-10, max_steps=2))
    solution = solve(problem, Tsit5(), PIDController(1e-6, 1e-6), gradient=method)
    with pytest.warns(AdjointWarning, match="gradients are NaN: sample 0 at t="):
        by_y0, by_rate = torch.autograd.grad(solution.final.sum(), [y0, rate])
    assert by_rate.isnan()
    assert by_y0.isnan().all()


def test_a_sample_that_failed_forward_leaves_the_gradient_of_the_others():
    growth = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5], [2.0]], dtype=F64, requires_grad=True)
    problem = ODEProblem(lambda t, y, c: growth * y * y, y0, 0.0, 1.0)
    for method in (BacksolveAdjoint(), InterpolatedAdjoint()):
        solution = solve(problem, Tsit5(), PIDController(1e-9, 1e-9), gradient=method)
        assert solution.succeeded.tolist() == [True, False]
        by_y0, by_growth = torch.autograd.grad(solution.final[0, 0], [y0, growth])
        # y = y0 / (1 - g y0 t)
        assert by_y0.flatten().tolist() == pytest.approx([4.0, 0.0], rel=1e-6)
        assert by_growth == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("method", [BacksolveAdjoint(), InterpolatedAdjoint()])
def test_second_derivatives_and_random_equations_are_refused(method):
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
    solution = solve(ODEProblem(lambda t, y, c: -y, y0, 0.0, 1.0), Tsit5(), ConstantSteps(4), gradient=method)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(solution.final.sum(), y0, create_graph=True)
    noise = VirtualBrownianTree(0, 0.0, 1.0)
    problem = SDEProblem(lambda t, y, c: -y, lambda t, y, c: y, y0, 0.0, 1.0, noise=noise)
    with pytest.raises(ValueError, match="needs an ordinary differential equation"):
        solve(problem, EulerMaruyama(), ConstantSteps(4), gradient=method)
