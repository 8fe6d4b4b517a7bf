"""Checkpoints change the memory, not the gradient."""

import math
import weakref

import pytest
import torch

from isocline.solvers import RK4, Bosh3, ConstantSteps, Dopri5, Euler, ODEProblem, PIDController, SaveAt, Tsit5, solve
from isocline.solvers.gradient import (
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
)
from isocline.solvers.stepper import AbstractStepper, StepResult

F64 = torch.float64
RATE = torch.linspace(0.5, 3, 6, dtype=F64)[:, None].requires_grad_()
Y0 = torch.linspace(-1, 1, 12, dtype=F64).reshape(6, 2).requires_grad_()


def field(t, y, cond):
    return cond * torch.stack([y[:, 1], -y[:, 0].sin()], 1) + 0.1 * torch.cos(t).reshape(-1, 1)


def gradients(gradient, stepper, controller, saveat=None, order=1):
    problem = ODEProblem(field, Y0, 0.0, 3.0, RATE)
    solution = solve(problem, stepper, controller, saveat or SaveAt(), gradient=gradient)
    found = torch.autograd.grad(solution.ys.sin().sum(), [Y0, RATE], create_graph=order > 1)
    return found if order == 1 else torch.autograd.grad(sum(v.square().sum() for v in found), [Y0, RATE])


CASES = [
    (Euler(), ConstantSteps(23)),
    (RK4(), ConstantSteps(12)),
    (Bosh3(), PIDController(1e-3, 1e-3, dt0=1.0)),
    (Tsit5(), PIDController(1e-6, 1e-6, jump_ts=[0.7])),
    (Dopri5(), PIDController(1e-6, 1e-6, joint=True, jump_ts=[0.7])),
]


@pytest.mark.parametrize("saveat", [SaveAt(), SaveAt(ts=[0.0, 0.8, 2.5, 1.1])], ids=["end", "times"])
@pytest.mark.parametrize("checkpoints", [None, 2, 3, 1000])
@pytest.mark.parametrize(("stepper", "controller"), CASES)
def test_the_gradient_is_that_of_the_discrete_adjoint(stepper, controller, checkpoints, saveat):
    wanted = gradients(DiscreteAdjoint(), stepper, controller, saveat)
    found = gradients(CheckpointedAdjoint(checkpoints), stepper, controller, saveat)
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("stepper", "controller"), CASES)
def test_second_derivatives_are_those_of_backpropagation(stepper, controller):
    saveat = SaveAt(ts=[0.8, 3.0])
    wanted = gradients(Backpropagation(), stepper, controller, saveat, order=2)
    found = gradients(CheckpointedAdjoint(), stepper, controller, saveat, order=2)
    for value, other in zip(found, wanted, strict=True):
        assert torch.allclose(value, other, rtol=1e-7)


def test_a_carry_that_is_a_structure_is_kept_and_restored():
    class TwoStep(AbstractStepper):
        order, error_order, nfe_per_step = 2, None, 1

        def init(self, problem, t0, y0):
            return problem.evaluate(t0, y0), {"count": 0}

        def step(self, problem, t0, t1, y0, carry):
            before, rest = carry
            slope = problem.evaluate(t0, y0)
            y1 = y0 + (t1 - t0) * (1.5 * slope - 0.5 * before)
            return StepResult(y1, None, (slope, {"count": rest["count"] + 1}))

    wanted = gradients(Backpropagation(), TwoStep(), ConstantSteps(30))
    for gradient in (DiscreteAdjoint(), CheckpointedAdjoint(), CheckpointedAdjoint(3)):
        for value, other in zip(gradients(gradient, TwoStep(), ConstantSteps(30)), wanted, strict=True):
            assert torch.allclose(value, other, rtol=1e-12)


def test_fewer_than_two_checkpoints_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        CheckpointedAdjoint(1)


class Census:
    """A field that knows how many of the states it saw, and of the slopes it made, are still alive."""

    def __init__(self):
        self.seen, self.most = [], 0

    def alive(self):
        self.seen = [reference for reference in self.seen if reference() is not None]
        return len(self.seen)

    def __call__(self, t, y, cond):
        slope = -cond * y
        self.seen += [weakref.ref(y), weakref.ref(slope)]
        self.most = max(self.most, self.alive())
        return slope


def kept_and_most(gradient, steps, stepper):
    """States alive after the forward solve, and the most at any time of the backward pass."""
    census = Census()
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(3, 2, dtype=F64, requires_grad=True)
    solution = solve(ODEProblem(census, y0, 0.0, 1.0, rate), stepper, ConstantSteps(steps), gradient=gradient)
    kept, census.most = census.alive(), 0
    solution.final.sum().backward()
    return kept, census.most


def test_the_discrete_adjoint_keeps_at_most_three_states_per_step():
    for stepper, most in ((RK4(), 1), (Dopri5(), 2)):
        fewer, more = (kept_and_most(DiscreteAdjoint(), steps, stepper)[0] for steps in (40, 80))
        assert (more - fewer) / 40 <= most
        assert more <= 80 * most + 4


@pytest.mark.parametrize("steps", [64, 300])
def test_checkpoints_keep_order_root_n_states(steps):
    kept, most = kept_and_most(CheckpointedAdjoint(), steps, RK4())
    assert kept <= math.sqrt(2 * steps) + 4
    # Checkpoints, the states of one stretch, and what one step needs.
    assert most <= 3 * math.sqrt(steps) + 16
    assert most < kept_and_most(DiscreteAdjoint(), steps, RK4())[1]


def test_a_given_number_of_checkpoints_bounds_the_memory_by_its_logarithm():
    kept, most = kept_and_most(CheckpointedAdjoint(4), 256, RK4())
    assert kept <= 4 + 4
    assert most <= 4 * (1 + math.log(256, 4)) + 16


def test_the_backsolve_adjoint_keeps_the_same_for_any_number_of_steps():
    few, many = (kept_and_most(BacksolveAdjoint(), steps, RK4()) for steps in (16, 256))
    assert many[0] == few[0]
    assert many[1] <= few[1] + 2


@pytest.mark.parametrize("checkpoints", [None, 2])
def test_without_a_step_the_start_is_all_there_is(checkpoints):
    problem = ODEProblem(field, Y0, 1.0, 1.0, RATE)
    solution = solve(problem, Tsit5(), PIDController(1e-6, 1e-6), gradient=CheckpointedAdjoint(checkpoints))
    by_y0, by_rate = torch.autograd.grad(solution.final.sum(), [Y0, RATE], allow_unused=True)
    assert torch.equal(by_y0, torch.ones_like(Y0))
    assert by_rate is None or not bool(by_rate.any())
