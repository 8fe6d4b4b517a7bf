"""Depth integrators: stability functions, convergence orders in depth, fixed points, reversibility."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from isocline.networks.depth.block import Branch, Branches
from isocline.networks.depth.continuous import Continuous
from isocline.networks.depth.euler import Euler
from isocline.networks.depth.implicit_euler import ImplicitEuler
from isocline.networks.depth.integrator import AbstractDepthIntegrator
from isocline.networks.depth.leapfrog import Leapfrog, Phase
from isocline.networks.depth.predictor_corrector import PredictorCorrector
from isocline.networks.depth.runge_kutta import LearnedRungeKutta, RungeKutta
from isocline.networks.depth.splitting import Macaron, MlpFirst, Parallel, Strang
from isocline.solvers import explicit
from isocline.solvers.controller import ConstantSteps, PIDController
from isocline.solvers.explicit import AbstractRungeKutta

METHODS = (explicit.Euler, explicit.Midpoint, explicit.Heun, explicit.Bosh3, explicit.RK4, explicit.Dopri5)


class Stub:
    """A block of two given branches."""

    def __init__(self, attention: Branch, mlp: Branch, halves: tuple[Branch, Branch] | None = None) -> None:
        self.parts = Branches(attention, mlp, halves or (lambda x: mlp(x) / 2, lambda x: mlp(x) / 2))

    def __call__(self, x: Tensor, c: Tensor | None) -> Tensor:
        return x + self.parts.field(x)

    def branches(self, c: Tensor | None) -> Branches:
        return self.parts


def zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def linear(matrix: Tensor) -> Stub:
    """F(x) = A x."""
    return Stub(lambda x: x @ matrix.T, zero)


def matrix(scale: float = 0.4) -> Tensor:
    return scale * torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def state() -> Tensor:
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def series(a: Tensor, coefficients: list[float]) -> Tensor:
    """Σ c_k Aᵏ."""
    power, total = torch.eye(3, dtype=a.dtype), torch.zeros_like(a)
    for number in coefficients:
        total = total + number * power
        power = power @ a
    return total


def stability(stepper: AbstractRungeKutta, a: Tensor) -> Tensor:
    """R(A) = 1 + A bᵀ(1 − A ⊗ a)⁻¹ 1, its stages from one linear system."""
    table = stepper.tableau
    size = len(table.b)
    lower = torch.tensor([[*row, *[0.0] * (size - len(row))] for row in table.a], dtype=a.dtype)
    big = torch.eye(3 * size, dtype=a.dtype) - torch.kron(lower, a.contiguous())
    slopes = torch.linalg.solve(big, torch.kron(torch.ones(size, 1, dtype=a.dtype), a.contiguous()))
    return torch.eye(3, dtype=a.dtype) + torch.kron(torch.tensor([table.b], dtype=a.dtype), torch.eye(3)) @ slopes


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_block_is_multiplied_by_the_stability_function_of_the_tableau(method: type) -> None:
    a, x = matrix(), state()
    got = RungeKutta(1, 3, method())([linear(a)], x, None)
    torch.testing.assert_close(got, x @ stability(method(), a).T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_learned_weights_begin_at_the_tableau_and_are_learned_by_block(method: type) -> None:
    blocks, x = [linear(matrix()), linear(matrix(-0.3))], state()
    learned = LearnedRungeKutta(2, 3, method()).double()
    expected = RungeKutta(2, 3, method())(blocks, x, None)
    torch.testing.assert_close(learned(blocks, x, None), expected, rtol=1e-6, atol=1e-6)
    learned(blocks, x, None).square().sum().backward()
    assert learned.weights.grad is not None
    assert bool((learned.weights.grad[:, -1] != 0).all())


def test_splittings_of_linear_parts_are_products_of_their_steps() -> None:
    a, m, x, one = matrix(), matrix(-0.3).T, state(), torch.eye(3, dtype=torch.float64)
    block = Stub(lambda x: x @ a.T, lambda x: x @ m.T)
    products = {
        Euler(1, 3): (one + m) @ (one + a),
        MlpFirst(1, 3): (one + a) @ (one + m),
        Parallel(1, 3): one + a + m,
        Strang(1, 3): (one + m / 2) @ (one + a) @ (one + m / 2),
        Macaron(1, 3): (one + m / 2) @ (one + a) @ (one + m / 2),
        Strang(1, 3, explicit.RK4()): (
            stability(explicit.RK4(), m / 2) @ stability(explicit.RK4(), a) @ stability(explicit.RK4(), m / 2)
        ),
    }
    for integrator, product in products.items():
        torch.testing.assert_close(integrator([block], x, None), x @ product.T, rtol=1e-12, atol=1e-12)


def test_macaron_halves_may_differ() -> None:
    first, second, x = matrix(), matrix(-0.2).T, state()
    block = Stub(zero, zero, (lambda x: x @ first.T, lambda x: x @ second.T))
    one = torch.eye(3, dtype=torch.float64)
    expected = x @ ((one + second) @ (one + first)).T
    torch.testing.assert_close(Macaron(1, 3)([block], x, None), expected)


def test_leapfrog_of_a_linear_force_is_the_drift_kick_drift_matrix() -> None:
    a, x = matrix(), state()
    got = Leapfrog(2, 3).phase([linear(a)] * 2, Phase(x, torch.zeros_like(x)))
    half = torch.kron(torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double(), torch.eye(3).double())
    kick = torch.eye(6).double()
    kick[3:, :3] = a
    power = torch.linalg.matrix_power(half @ kick @ half, 2)
    expected = torch.cat([x, torch.zeros_like(x)], -1) @ power.T
    torch.testing.assert_close(torch.cat([got.x, got.v], -1), expected)


def test_leapfrog_runs_back_to_where_it_came_from() -> None:
    blocks = [Stub(lambda x, k=k: torch.sin((k + 1) * x), torch.tanh) for k in range(5)]
    x = state()
    integrator = Leapfrog(5, 3)
    end = integrator.phase(blocks, Phase(x, 0.3 * x.flip(0)))
    back = integrator.phase(blocks[::-1], Phase(end.x, -end.v))
    torch.testing.assert_close(back.x, x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(-back.v, 0.3 * x.flip(0), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(end.x, x, atol=0.1)


def test_friction_slows_a_free_state_exponentially() -> None:
    x = state()
    end = Leapfrog(3, 3, friction=0.5).phase([Stub(zero, zero)] * 3, Phase(x, x))
    torch.testing.assert_close(end.v, math.exp(-1.5) * x)
    driven = Leapfrog(1, 3, friction=0.5).phase([Stub(torch.ones_like, zero)], Phase(x, zero(x)))
    torch.testing.assert_close(driven.v, torch.full_like(x, (1 - math.exp(-0.5)) / 0.5))


def test_the_fixed_point_of_implicit_euler_is_the_resolvent_and_its_iterates_the_neumann_series() -> None:
    a, x = matrix(0.2), state()
    for count in (1, 2, 3):
        got = ImplicitEuler(1, 3, count)([linear(a)], x, None)
        torch.testing.assert_close(got, x @ series(a, [1.0] * (count + 1)).T)
    end = ImplicitEuler(1, 3, 60)([linear(a)], x, None)
    torch.testing.assert_close(end, torch.linalg.solve(torch.eye(3).double() - a, x.mT.double()).mT)


def test_every_block_has_its_own_number_of_iterations() -> None:
    a, x = matrix(0.2), state()
    got = ImplicitEuler(2, 3, [1, 3])([linear(a)] * 2, x, None)
    torch.testing.assert_close(got, x @ (series(a, [1.0] * 4) @ series(a, [1.0] * 2)).T)


def test_the_corrector_begins_with_the_weights_of_adams_and_moulton() -> None:
    weights = [part.tolist() for part in PredictorCorrector(3, 3, explicit.Heun(), history=3).weights]
    assert weights[0] == pytest.approx([1 / 2, 1 / 2])
    assert weights[1] == pytest.approx([5 / 12, 8 / 12, -1 / 12])
    assert weights[2] == pytest.approx([9 / 24, 19 / 24, -5 / 24, 1 / 24])


def test_predictor_and_corrector_of_a_linear_block_are_their_published_polynomials() -> None:
    a, x = matrix(), state()
    got = PredictorCorrector(1, 3, explicit.Heun(), history=2).double()([linear(a)], x, None)
    # p = x + F(x)/4 + F(x + F(x))/2, then the trapezium
    predicted = series(a, [1.0, 0.75, 0.5])
    torch.testing.assert_close(got, x @ (torch.eye(3).double() + a @ predicted / 2 + a / 2).T)


def test_the_corrector_uses_the_slopes_of_earlier_layers() -> None:
    a, b, x = matrix(), matrix(-0.3).T, state()
    integrator = PredictorCorrector(2, 3, explicit.Euler(), history=2).double()
    with torch.no_grad():
        integrator.decay.fill_(1.0)
    first = integrator([linear(a)], x, None)
    slope, after = x @ a.T, first @ b.T
    end = (first + after) @ b.T
    expected = first + 5 / 12 * end + 8 / 12 * after - 1 / 12 * slope
    torch.testing.assert_close(integrator([linear(a), linear(b)], x, None), expected, rtol=1e-6, atol=1e-6)


# Convergence in depth: L layers of the tied field / L towards the flow over unit depth.


def oscillator(x: Tensor) -> Tensor:
    """A nonlinear field on R³: Euler's equations of a rigid body, with a little friction."""
    p, q, r = x.unbind(-1)
    return torch.stack([0.8 * q * r, -1.2 * p * r, 0.5 * p * q], -1) - 0.2 * x


def shear(x: Tensor) -> Tensor:
    """Changes the first coordinate by the others: Euler's step is its flow."""
    return torch.stack([torch.sin(x[..., 1]) + x[..., 2] ** 2, 0 * x[..., 1], 0 * x[..., 2]], -1)


def counter_shear(x: Tensor) -> Tensor:
    """Changes the others by the first: likewise."""
    return torch.stack([0 * x[..., 0], -torch.sin(2 * x[..., 0]), torch.cos(x[..., 0])], -1)


def flow(field: Branch, x: Tensor, second_order: bool = False) -> Tensor:
    """The exact flow over unit time, nearly."""
    v, h = torch.zeros_like(x), 1 / 400

    def slope(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return (v, field(x)) if second_order else (field(x), v)

    for _ in range(400):
        k1 = slope(x, v)
        k2 = slope(x + h / 2 * k1[0], v + h / 2 * k1[1])
        k3 = slope(x + h / 2 * k2[0], v + h / 2 * k2[1])
        k4 = slope(x + h * k3[0], v + h * k3[1])
        x, v = (y + h / 6 * (a + 2 * b + 2 * c + d) for y, a, b, c, d in zip((x, v), k1, k2, k3, k4, strict=True))
    return x


def order(make: Callable[[int], AbstractDepthIntegrator], a: Branch, m: Branch, power: int = 1) -> float:
    """Slope of the error between 16 and 32 layers; layers are scaled by L^-power."""
    exact = flow(lambda x: a(x) + m(x), state(), second_order=power == 2)
    errors = []
    for depth in (16, 32):
        scale = depth**-power
        block = Stub(lambda x, s=scale: s * a(x), lambda x, s=scale: s * m(x))
        with torch.no_grad():
            errors.append(float((make(depth).double()([block] * depth, state(), None) - exact).norm()))
    return math.log2(errors[0] / errors[1])


def consistent(depth: int) -> AbstractDepthIntegrator:
    integrator = PredictorCorrector(depth, 3, explicit.Heun(), history=2)
    torch.nn.init.ones_(integrator.decay)
    return integrator


def _constant(depth: int) -> AbstractDepthIntegrator:
    tied = Continuous(depth, 3, explicit.RK4(), ConstantSteps(depth))
    return _Repeated(tied)


class _Repeated(torch.nn.Module):
    """Hands one block of a tied stack on."""

    def __init__(self, inner: Continuous) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, blocks: list[Stub], x: Tensor, c: Tensor | None) -> Tensor:
        return self.inner(blocks[:1], x, c)


ORDERS: dict[str, tuple[Callable[[int], AbstractDepthIntegrator], Branch, Branch, float]] = {
    "euler": (lambda n: Euler(n, 3), oscillator, zero, 1),
    "rk2": (lambda n: RungeKutta(n, 3, explicit.Heun()), oscillator, zero, 2),
    "rk3": (lambda n: RungeKutta(n, 3, explicit.Bosh3()), oscillator, zero, 3),
    "rk4": (lambda n: RungeKutta(n, 3, explicit.RK4()), oscillator, zero, 4),
    "parallel": (lambda n: Parallel(n, 3), shear, counter_shear, 1),
    "lie-trotter": (lambda n: MlpFirst(n, 3), shear, counter_shear, 1),
    "strang": (lambda n: Strang(n, 3), shear, counter_shear, 2),
    "strang of parts that Euler does not solve": (lambda n: Strang(n, 3), oscillator, counter_shear, 1),
    "strang with sub-steps of order 2": (lambda n: Strang(n, 3, explicit.Heun()), oscillator, counter_shear, 2),
    "implicit euler": (lambda n: ImplicitEuler(n, 3, 8), oscillator, zero, 1),
    "predictor-corrector": (lambda n: PredictorCorrector(n, 3, explicit.Heun()), oscillator, zero, 1),
    "predictor-corrector with b = 1": (consistent, oscillator, zero, 2),
    "continuous": (_constant, oscillator, zero, 4),
}


@pytest.mark.parametrize("name", ORDERS)
def test_a_tied_stack_converges_to_the_flow_with_the_order_of_its_method(name: str) -> None:
    make, a, m, expected = ORDERS[name]
    assert order(make, a, m) == pytest.approx(expected, abs=0.2)


def test_leapfrog_converges_to_the_second_order_flow_with_order_two() -> None:
    assert order(lambda n: Leapfrog(n, 3), oscillator, zero, power=2) == pytest.approx(2, abs=0.2)


def test_continuous_depth_meets_its_tolerance_and_says_its_evaluations() -> None:
    block = Stub(oscillator, zero)
    exact = flow(oscillator, state())
    loose, tight = (
        Continuous(1, 3, explicit.Dopri5(), PIDController(rtol=tol, atol=tol)).double() for tol in (1e-3, 1e-9)
    )
    assert (tight([block], state(), None) - exact).abs().max() < 1e-7
    few, many = (int(part.solution([block], state(), None).stats.nfe.max()) for part in (loose, tight))
    assert 7 <= few < many


@pytest.mark.parametrize(
    "make",
    [
        lambda: Euler(4, 3),
        lambda: RungeKutta(4, 3, explicit.RK4()),
        lambda: Strang(4, 3),
        lambda: PredictorCorrector(4, 3, explicit.Heun()).double(),
        lambda: Leapfrog(4, 3),
    ],
)
def test_the_trajectory_ends_where_the_forward_does_and_passes_through_every_layer(make: Callable) -> None:
    integrator, blocks = make(), [linear(matrix(0.1 * k)) for k in range(1, 5)]
    states = list(integrator.trajectory(blocks, state(), None))
    assert len(states) == 4
    assert torch.equal(states[-1], integrator(blocks, state(), None))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Euler(0, 3), "depth = 0"),
        (lambda: Leapfrog(2, 3, friction=-1.0), "friction = -1.0"),
        (lambda: ImplicitEuler(2, 3, [1]), "one per block"),
        (lambda: ImplicitEuler(2, 3, [1, 0]), "at least one"),
        (lambda: PredictorCorrector(2, 3, explicit.Heun(), history=0), "history = 0"),
    ],
)
def test_senseless_options_are_named(make: Callable, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
