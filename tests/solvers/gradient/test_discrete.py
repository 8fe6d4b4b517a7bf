"""The discrete adjoint is the derivative of the discrete solution."""

import pytest
import torch

from isocline.solvers import (
    RK4,
    Bosh3,
    ConstantSteps,
    Dopri5,
    Dopri8,
    Euler,
    EulerMaruyama,
    Event,
    Heun,
    Midpoint,
    ODEProblem,
    PIDController,
    SaveAt,
    SDEProblem,
    Tsit5,
    solve,
)
from isocline.solvers.gradient import Backpropagation, DiscreteAdjoint
from isocline.solvers.stepper import AbstractStepper, StepResult

F64 = torch.float64


class TwoStep(AbstractStepper):
    """Adams–Bashforth 2 that starts with Euler: its carry holds a slope, a counter and a name."""

    order, error_order, nfe_per_step = 2, None, 1

    def init(self, problem, t0, y0):
        return {"slope": torch.zeros_like(y0), "count": torch.zeros(len(y0), dtype=torch.int64), "name": "two"}

    def step(self, problem, t0, t1, y0, carry):
        slope = problem.evaluate(t0, y0)
        mixed = torch.where(carry["count"][:, None] > 0, 1.5 * slope - 0.5 * carry["slope"], slope)
        y1 = y0 + (t1 - t0) * mixed
        return StepResult(y1, None, {"slope": slope, "count": carry["count"] + 1, "name": "two"})


class Pieces:
    """A field with a network, a per-sample and a shared condition, and what gradients are wanted for."""

    def __init__(self, samples=5, dtype=F64):
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(dtype)
        self.y0 = torch.linspace(-1, 1, 2 * samples, dtype=dtype).reshape(samples, 2).requires_grad_()
        self.rate = torch.linspace(1, 6, samples, dtype=dtype)[:, None].requires_grad_()
        self.shift = torch.tensor(0.3, dtype=dtype, requires_grad=True)
        self.calls = 0

    def field(self, t, y, cond):
        self.calls += 1
        time = t.to(y.dtype).reshape(-1, 1).expand(len(y), 1)
        return self.net(torch.cat([y, time], 1)) * cond["rate"] + cond["more"][0] * y.sin()

    @property
    def leaves(self):
        return [self.y0, self.rate, self.shift, *self.net.parameters()]

    def problem(self, t0=0.0, t1=1.0):
        return ODEProblem(self.field, self.y0, t0, t1, {"rate": self.rate, "more": (self.shift, "text", None)})

    def gradients(self, gradient, stepper, controller, saveat=None, t1=1.0, event=None):
        solution = solve(self.problem(t1=t1), stepper, controller, saveat or SaveAt(), gradient=gradient, event=event)
        weights = torch.linspace(1, 2, solution.ys.numel()).reshape(solution.ys.shape).to(solution.ys.dtype)
        return torch.autograd.grad((solution.ys.sin() * weights).sum(), self.leaves)


def assert_close(found, wanted, tolerance):
    for value, other in zip(found, wanted, strict=True):
        assert (value - other).abs().max() <= tolerance * other.abs().max()


SAVES = [SaveAt(), SaveAt(ts=[0.8, 0.0, 0.31, 0.3, 1.0]), SaveAt(steps=True)]


@pytest.mark.parametrize("saveat", SAVES, ids=["end", "times", "steps"])
@pytest.mark.parametrize(
    "stepper", [Euler(), Midpoint(), Heun(), RK4(), Bosh3(), Dopri5(), Tsit5(), Dopri8(), TwoStep()]
)
def test_on_a_grid_it_equals_backpropagation_through_the_steps(stepper, saveat):
    if isinstance(stepper, TwoStep) and saveat.ts is not None:
        saveat = SaveAt()
    pieces = Pieces()
    wanted = pieces.gradients(Backpropagation(), stepper, ConstantSteps(7), saveat)
    assert_close(pieces.gradients(DiscreteAdjoint(), stepper, ConstantSteps(7), saveat), wanted, 1e-12)


@pytest.mark.parametrize("saveat", SAVES[:2], ids=["end", "times"])
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("stepper", [Heun(), Bosh3(), Tsit5(), Dopri8()])
def test_under_adaptive_control_it_equals_backpropagation_at_fixed_step_sizes(stepper, joint, saveat):
    pieces = Pieces()
    tolerance = 1e-8 if isinstance(stepper, Dopri8) else 1e-5
    controller = PIDController(rtol=tolerance, atol=tolerance, joint=joint, dt0=1.0)
    solution = solve(pieces.problem(), stepper, controller, saveat)
    assert (solution.stats.rejected > 0).any()
    wanted = pieces.gradients(Backpropagation(), stepper, controller, saveat)
    # Step sizes depend on rounding errors, by which the two forward solves differ.
    assert_close(pieces.gradients(DiscreteAdjoint(), stepper, controller, saveat), wanted, 1e-8)


def test_samples_with_their_own_spans_in_both_directions_are_pulled_back_apart():
    t1 = torch.tensor([1.0, -0.5, 0.0, 2.0, 0.3], dtype=F64)
    pieces = Pieces()
    controller = PIDController(rtol=1e-6, atol=1e-6)
    wanted = pieces.gradients(Backpropagation(), Tsit5(), controller, t1=t1)
    found = pieces.gradients(DiscreteAdjoint(), Tsit5(), controller, t1=t1)
    assert_close(found, wanted, 1e-8)
    weights = torch.linspace(1, 2, 10, dtype=F64).reshape(5, 2)[2]
    assert torch.allclose(found[0][2], weights * pieces.y0[2].cos())


@pytest.mark.parametrize("joint", [False, True])
def test_the_slope_beyond_a_jump_of_the_field_is_pulled_back_to_the_state_there(joint):
    scale = torch.tensor([1.0, 3.0], dtype=F64, requires_grad=True)

    def field(t, y, cond):
        return torch.where(t <= 0.5, scale[0], scale[1]).reshape(-1, 1) * y

    y0 = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    controller = PIDController(rtol=1e-9, atol=1e-9, joint=joint, jump_ts=[0.5])
    solution = solve(ODEProblem(field, y0, 0.0, 1.0), Tsit5(), controller, gradient=DiscreteAdjoint())
    by_y0, by_scale = torch.autograd.grad(solution.final.sum(), [y0, scale])
    growth = torch.exp(torch.tensor(2.0, dtype=F64))
    assert torch.allclose(by_y0, growth.expand(2, 1), rtol=1e-7)
    assert torch.allclose(by_scale, (3 * 0.5 * growth).expand(2), rtol=1e-7)


def test_every_accepted_step_is_evaluated_again_once_and_rejected_ones_are_not():
    pieces = Pieces()
    controller = PIDController(rtol=1e-6, atol=1e-6, joint=True, dt0=1.0)
    solution = solve(pieces.problem(), Dopri5(), controller, gradient=DiscreteAdjoint())
    assert solution.stats.rejected[0] > 0
    pieces.calls = 0
    solution.final.sum().backward()
    # The last stage of the last step leads nowhere; the slope at the start is evaluated once more.
    assert pieces.calls == 6 * solution.stats.accepted[0] - 1 + 1


def test_a_derivative_of_the_gradient_equals_that_of_backpropagation():
    pieces = Pieces()

    def second(gradient):
        solution = solve(pieces.problem(), Bosh3(), PIDController(1e-2, 1e-2), SaveAt(ts=[0.3, 1.0]), gradient=gradient)
        first = torch.autograd.grad(solution.ys.sin().sum(), pieces.leaves, create_graph=True)
        return torch.autograd.grad(sum(value.square().sum() for value in first), pieces.leaves)

    assert_close(second(DiscreteAdjoint()), second(Backpropagation()), 1e-9)


def test_the_backward_pass_can_be_made_twice_if_the_graph_is_retained():
    pieces = Pieces()
    solution = solve(pieces.problem(), Tsit5(), ConstantSteps(3), gradient=DiscreteAdjoint())
    first = torch.autograd.grad(solution.final.sum(), pieces.leaves, retain_graph=True)
    assert_close(torch.autograd.grad(solution.final.sum(), pieces.leaves), first, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_of_states_and_gradients_is_kept(dtype):
    pieces = Pieces(dtype=dtype)
    wanted = pieces.gradients(Backpropagation(), RK4(), ConstantSteps(4))
    found = pieces.gradients(DiscreteAdjoint(), RK4(), ConstantSteps(4))
    assert all(value.dtype == dtype for value in found)
    assert_close(found, wanted, 1e-5 if dtype == torch.float32 else 0.1)


def test_complex_states_follow_the_convention_of_autograd():
    rate = torch.tensor(-0.4 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1.0 + 2.0j], [0.5 - 1.0j]], requires_grad=True, dtype=torch.complex128)

    def gradients(gradient):
        problem = ODEProblem(lambda t, y, c: rate * y + 0.1 * y.conj(), y0, 0.0, 1.0)
        solution = solve(problem, Tsit5(), ConstantSteps(5), gradient=gradient)
        return torch.autograd.grad(solution.final.abs().sum(), [y0, rate])

    assert_close(gradients(DiscreteAdjoint()), gradients(Backpropagation()), 1e-12)


def test_a_sample_that_fails_leaves_the_gradients_of_the_others_and_of_its_own_saved_states():
    growth = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5], [2.0], [float("nan")]], dtype=F64, requires_grad=True)
    problem = ODEProblem(lambda t, y, c: growth * y * y, y0, 0.0, 1.0)
    solution = solve(problem, Tsit5(), PIDController(1e-9, 1e-9), SaveAt(ts=[0.2, 0.9]), gradient=DiscreteAdjoint())
    assert solution.ys.isfinite().squeeze(2).tolist() == [[True, True, False], [True, False, False]]
    loss = torch.where(solution.ys.isfinite(), solution.ys, 0.0).sum()
    by_y0, by_growth = torch.autograd.grad(loss, [y0, growth])
    # y = y0 / (1 - g y0 t)
    reached = [(0.5, 0.2), (0.5, 0.9), (2.0, 0.2)]
    assert by_growth == pytest.approx(sum(y * y * t / (1 - y * t) ** 2 for y, t in reached), rel=1e-6)
    first = sum(1 / (1 - y * t) ** 2 for y, t in reached[:2])
    assert by_y0.flatten().tolist() == pytest.approx([first, 1 / 0.6**2, 0.0], rel=1e-6)


def test_samples_that_cannot_be_taken_apart_are_pulled_back_together():
    scale = torch.linspace(1, 8, 4, dtype=F64)[:, None].requires_grad_()
    y0 = torch.linspace(0.5, 1, 4, dtype=F64)[:, None].requires_grad_()
    controller = PIDController(1e-4, 1e-4, dt0=0.5)

    def gradients(gradient):
        problem = ODEProblem(lambda t, y, c: scale * y.cos(), y0, 0.0, 1.0, is_separable=False)
        solution = solve(problem, Tsit5(), controller, gradient=gradient)
        assert solution.stats.rejected.unique().numel() > 1
        return torch.autograd.grad(solution.final.square().sum(), [y0, scale])

    assert_close(gradients(DiscreteAdjoint()), gradients(Backpropagation()), 1e-8)


def test_rejected_steps_that_were_not_finite_spoil_no_gradient_where_samples_stay_together():
    scale = torch.tensor([[1.0], [1.0]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [1e-3]], dtype=F64, requires_grad=True)

    def field(t, y, cond):
        return -scale * torch.sqrt(y) * torch.log(y)

    problem = ODEProblem(field, y0, 0.0, 0.1, is_separable=False)
    controller = PIDController(1e-6, 1e-9, dt0=0.1)
    solution = solve(problem, Tsit5(), controller, gradient=DiscreteAdjoint())
    found = torch.autograd.grad(solution.final.sum(), [y0, scale])
    assert solution.succeeded.all()
    assert all(value.isfinite().all() for value in found)


def test_event_times_carry_the_gradient_through_the_steps():
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0], [0.3]], dtype=F64, requires_grad=True)
    event = Event(lambda t, y, cond: y[:, 0] - 0.5)
    problem = ODEProblem(lambda t, y, cond: -rate * y, y0, 0.0, 5.0)
    solution = solve(problem, Tsit5(), PIDController(1e-9, 1e-9), event=event, gradient=DiscreteAdjoint())
    by_y0, by_rate = torch.autograd.grad(solution.stopped_at.sum(), [y0, rate])
    # t* = log(2 y0) / rate
    assert by_y0.flatten().tolist() == pytest.approx([1.0, 0.5, 0.0], rel=1e-6)
    assert by_rate == pytest.approx(-float(torch.tensor([2.0, 4.0]).log().sum()), rel=1e-6)


def test_an_equation_that_draws_afresh_in_every_step_is_refused():
    y0 = torch.ones(2, 1, requires_grad=True)
    problem = SDEProblem(lambda t, y, c: -y, lambda t, y, c: y, y0, 0.0, 1.0, generator=torch.Generator())
    with pytest.raises(ValueError, match="noise="):
        solve(problem, EulerMaruyama(), ConstantSteps(4), gradient=DiscreteAdjoint())


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    y0 = torch.ones(2, 1, dtype=F64)
    problem = ODEProblem(lambda t, y, c: -y, y0, 0.0, 1.0)
    assert not solve(problem, Tsit5(), ConstantSteps(4), gradient=DiscreteAdjoint()).ys.requires_grad
    with torch.no_grad():
        live = ODEProblem(lambda t, y, c: -y, y0.clone().requires_grad_(), 0.0, 1.0)
        assert not solve(live, Tsit5(), ConstantSteps(4), gradient=DiscreteAdjoint()).ys.requires_grad


def test_van_der_pol_is_differentiated_to_one_part_in_a_thousand():
    """The closed form is replaced by differences of a solution at 1e-13: -1.16496."""
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64, requires_grad=True)

    def field(t, y, cond):
        return torch.stack([y[:, 1], 8 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)

    problem = ODEProblem(field, y0, 0.0, 10.0)
    solution = solve(problem, Tsit5(), PIDController(1e-6, 1e-6), gradient=DiscreteAdjoint())
    (found,) = torch.autograd.grad(solution.final[0, 0], y0)
    assert found[0].tolist() == pytest.approx([-1.16496099, -0.04862481], rel=1e-3)
