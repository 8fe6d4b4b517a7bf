"""Adjoints of the discrete solution for every family of steppers, against backpropagation and differences."""

import pytest
import torch

from isocline.solvers import (
    ETD2RK,
    SRIW1,
    AdamsBashforth,
    AdamsBashforthMoulton,
    Auto,
    Calculus,
    ConstantSteps,
    DenseLinear,
    EulerHeun,
    EulerMaruyama,
    GaussLegendre4,
    HamiltonianProblem,
    ImplicitEuler,
    KenCarp4,
    Kvaerno3,
    Kvaerno5,
    Leapfrog,
    Milstein,
    ODEProblem,
    PIDController,
    RadauIIA5,
    Rodas4,
    Rodas5P,
    SDEProblem,
    SemilinearProblem,
    ShARK,
    StratonovichHeun,
    Trapezoid,
    Tsit5,
    VirtualBrownianTree,
    Yoshida4,
    solve,
)
from isocline.solvers.gradient import Backpropagation, CheckpointedAdjoint, DiscreteAdjoint
from isocline.solvers.stage_solvers import FixedPoint

F64 = torch.float64
ADJOINTS = [DiscreteAdjoint(), CheckpointedAdjoint()]


class Inputs:
    """A start, a condition per sample and a matrix that the field closes over."""

    def __init__(self):
        self.y0 = torch.linspace(-1, 1.2, 8, dtype=F64).reshape(4, 2).requires_grad_()
        self.rate = torch.linspace(0.5, 2, 4, dtype=F64)[:, None].requires_grad_()
        self.matrix = torch.tensor([[0.2, 1.0], [-1.3, -0.4]], dtype=F64, requires_grad=True)

    @property
    def leaves(self):
        return [self.y0, self.rate, self.matrix]

    def field(self, t, y, cond):
        return cond * torch.sin(y @ self.matrix.T) + 0.1 * torch.cos(t).reshape(-1, 1)

    def ode(self):
        return ODEProblem(self.field, self.y0, 0.0, 1.0, self.rate)

    def hamiltonian(self):
        q0, p0 = self.y0.unbind(1)
        return HamiltonianProblem(
            lambda t, p, cond: cond[:, 0] * p,
            lambda t, q, cond: -self.matrix[0, 1] * q.sin(),
            q0,
            p0,
            0.0,
            1.0,
            self.rate,
        )

    def semilinear(self):
        return SemilinearProblem(
            DenseLinear(self.matrix), lambda t, y, cond: cond * y.sin(), self.y0, 0.0, 1.0, self.rate
        )

    def sde(self, calculus=Calculus.ITO):
        return SDEProblem(
            self.field,
            lambda t, y, cond: 0.3 * cond * self.matrix[0, 0] * y,
            self.y0,
            0.0,
            1.0,
            self.rate,
            noise=VirtualBrownianTree(3, 0.0, 1.0),
            calculus=calculus,
        )

    def additive_sde(self):
        return SDEProblem(
            self.field,
            lambda t, y, cond: self.matrix[0, 0] * torch.ones_like(y),
            self.y0,
            0.0,
            1.0,
            self.rate,
            noise=VirtualBrownianTree(3, 0.0, 1.0),
        )


def gradients(gradient, stepper, make, controller):
    inputs = Inputs()
    solution = solve(make(inputs), stepper, controller, gradient=gradient)
    assert solution.succeeded.all()
    weights = torch.linspace(1, 2, solution.final.numel(), dtype=F64).reshape(solution.final.shape)
    return torch.autograd.grad((solution.final.sin() * weights).sum(), inputs.leaves)


def differences(stepper, make, controller):
    """Central differences in every component of every input."""
    found = []
    for index in range(3):
        shape = Inputs().leaves[index].shape
        column = torch.zeros(shape, dtype=F64).flatten()
        for place in range(len(column)):
            values = []
            for move in (1e-5, -1e-5):
                inputs = Inputs()
                with torch.no_grad():
                    inputs.leaves[index].view(-1)[place] += move
                    final = solve(make(inputs), stepper, controller).final
                    weights = torch.linspace(1, 2, final.numel(), dtype=F64).reshape(final.shape)
                    values.append((final.sin() * weights).sum())
            column[place] = (values[0] - values[1]) / 2e-5
        found.append(column.reshape(shape))
    return found


def assert_close(found, wanted, tolerance):
    for value, other in zip(found, wanted, strict=True):
        assert (value - other).abs().max() <= tolerance * other.abs().max()


CASES = {
    "adams-bashforth": (AdamsBashforth(4), Inputs.ode),
    "adams-moulton": (AdamsBashforthMoulton(4), Inputs.ode),
    "implicit-euler": (ImplicitEuler(), Inputs.ode),
    "trapezoid-fixed-point": (Trapezoid(FixedPoint()), Inputs.ode),
    "gauss-legendre": (GaussLegendre4(), Inputs.ode),
    "radau": (RadauIIA5(), Inputs.ode),
    "esdirk": (Kvaerno3(), Inputs.ode),
    "ken-carp": (KenCarp4(), Inputs.ode),
    "rosenbrock": (Rodas4(), Inputs.ode),
    "exponential": (ETD2RK(), Inputs.semilinear),
    "leapfrog": (Leapfrog(), Inputs.hamiltonian),
    "yoshida": (Yoshida4(), Inputs.hamiltonian),
    "euler-maruyama": (EulerMaruyama(), Inputs.sde),
    "milstein": (Milstein(), Inputs.sde),
    "sriw1": (SRIW1(), Inputs.sde),
    "shark": (ShARK(), Inputs.additive_sde),
    "euler-heun": (EulerHeun(), lambda inputs: inputs.sde(Calculus.STRATONOVICH)),
    "stratonovich-heun": (StratonovichHeun(), lambda inputs: inputs.sde(Calculus.STRATONOVICH)),
}


@pytest.mark.parametrize("name", CASES)
def test_on_a_grid_the_adjoints_equal_backpropagation(name):
    stepper, make = CASES[name]
    wanted = gradients(Backpropagation(), stepper, make, ConstantSteps(11))
    for adjoint in ADJOINTS:
        assert_close(gradients(adjoint, stepper, make, ConstantSteps(11)), wanted, 1e-10)


@pytest.mark.parametrize("name", ["gauss-legendre", "radau", "esdirk", "rosenbrock", "exponential", "yoshida", "sriw1"])
def test_on_a_grid_the_adjoint_equals_differences(name):
    stepper, make = CASES[name]
    found = gradients(DiscreteAdjoint(), stepper, make, ConstantSteps(11))
    assert_close(found, differences(stepper, make, ConstantSteps(11)), 1e-6)


@pytest.mark.parametrize("stepper", [Kvaerno5(), Rodas5P(), Auto()], ids=["esdirk", "rosenbrock", "auto"])
def test_under_adaptive_control_stiff_steppers_reach_the_gradient_of_the_exact_solution(stepper):
    wanted = gradients(DiscreteAdjoint(), Tsit5(), Inputs.ode, PIDController(1e-11, 1e-11))
    for adjoint in ADJOINTS:
        assert_close(gradients(adjoint, stepper, Inputs.ode, PIDController(1e-9, 1e-9)), wanted, 1e-6)


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_a_stiff_equation_is_differentiated_by_its_rates(adjoint):
    """Prothero and Robinson: y stays on cos t, whatever λ = -1e6; its start is forgotten."""
    shift = torch.tensor([[0.3], [1.1]], dtype=F64, requires_grad=True)
    y0 = shift.detach().cos().requires_grad_()

    def field(t, y, cond):
        angle = t.reshape(-1, 1) + cond
        return -1e6 * (y - angle.cos()) - angle.sin()

    problem = ODEProblem(field, y0, 0.0, 2.0, shift)
    solution = solve(problem, Rodas5P(), PIDController(1e-8, 1e-8), gradient=adjoint)
    by_start, by_shift = torch.autograd.grad(solution.final.sum(), [y0, shift])
    assert by_start.abs().max() < 1e-6
    assert torch.allclose(by_shift, -(2.0 + shift.detach()).sin(), rtol=1e-6)
