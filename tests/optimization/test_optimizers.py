"""Optimisers as integrators: closed forms on quadratic bowls, agreement with torch, orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.optimization.bowls import TinyNetwork, bowl, descend
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from isocline.optimization.adaptive import AdaptiveGradientFlow
from isocline.optimization.amplification import amplification, stability_limit
from isocline.optimization.curvature import DiagonalCurvature
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall, ball_constants
from isocline.optimization.nesterov import CoastingEuler, Nesterov
from isocline.optimization.pid_learning_rate import PIDLearningRate
from isocline.optimization.proximal import AndersonStages
from isocline.optimization.semilinear_flow import IMEXEuler, SemilinearFlow
from isocline.solvers import (
    ETD1,
    ETD2RK,
    RK4,
    ConstantSteps,
    Dopri5,
    Euler,
    Heun,
    ImplicitEuler,
    ImplicitMidpoint,
    Leapfrog,
    ODEProblem,
    PIDController,
    SecondOrderProblem,
    SymplecticEuler,
    solve,
)

EXACT = AndersonStages(iterations=30, memory=10, tol=1e-13)
LAMBDAS = torch.tensor([0.01, 0.5, 3.0, 40.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("stepper", "factor"),
    [
        (Euler(), lambda z: 1 - z),
        (Heun(), lambda z: 1 - z + z**2 / 2),
        (RK4(), lambda z: 1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24),
        (ImplicitEuler(EXACT), lambda z: 1 / (1 + z)),
        (ImplicitMidpoint(EXACT), lambda z: (1 - z / 2) / (1 + z / 2)),
    ],
)
def test_iterates_on_a_bowl_are_powers_of_the_stability_function(
    stepper: Any, factor: Callable[[Tensor], Tensor]
) -> None:
    eta = 0.04
    found = descend(partial(GradientFlow, stepper=stepper, lr=eta), LAMBDAS, 6)
    powers = torch.arange(7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(found, factor(eta * LAMBDAS) ** powers, rtol=1e-9, atol=1e-11)


def test_exponential_euler_with_the_true_curvature_is_the_exact_flow_and_imex_the_implicit_step() -> None:
    eta = 0.2
    curvature = DiagonalCurvature(every=1)  # of a diagonal quadratic, signs cancel: one draw is exact
    exact = descend(partial(SemilinearFlow, stepper=ETD1(), lr=eta, curvature=curvature), LAMBDAS, 5)
    times = eta * torch.arange(6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(exact, torch.exp(-LAMBDAS * times), rtol=1e-7, atol=1e-9)
    implicit = descend(partial(SemilinearFlow, stepper=IMEXEuler(), lr=eta, curvature=curvature), LAMBDAS, 5)
    torch.testing.assert_close(implicit, (1 + eta * LAMBDAS) ** (-times / eta), rtol=1e-7, atol=1e-9)


def test_weight_decay_is_taken_exactly_or_implicitly_however_large() -> None:
    nothing = torch.zeros(3, dtype=torch.float64)
    eta, decay = 0.5, 100.0
    exact = descend(partial(SemilinearFlow, lr=eta, weight_decay=decay), nothing, 1)[-1]
    torch.testing.assert_close(exact, torch.full_like(nothing, math.exp(-eta * decay)))
    implicit = descend(partial(SemilinearFlow, stepper=IMEXEuler(), lr=eta, weight_decay=decay), nothing, 1)[-1]
    torch.testing.assert_close(implicit, torch.full_like(nothing, 1 / (1 + eta * decay)))


def _together(ours: Callable[..., Optimizer], theirs: Callable[..., Optimizer], groups: bool) -> None:
    """Thirty steps side by side under a schedule."""
    pairs = []
    for make in (ours, theirs):
        network = TinyNetwork()
        options = {"lr": 0.02} if groups else {}
        params: Any = [{"params": [network.first]}, {"params": [network.last], **options}]
        optimizer = make(params)
        pairs.append((network, optimizer, LambdaLR(optimizer, lambda step: 0.95**step)))
    for _ in range(30):
        losses = []
        for network, optimizer, schedule in pairs:
            losses.append(optimizer.step(network.closure(optimizer)).item())
            schedule.step()
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        torch.testing.assert_close(pairs[0][0].vector(), pairs[1][0].vector(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (partial(GradientFlow, lr=0.1, weight_decay=0.01), partial(SGD, lr=0.1, weight_decay=0.01)),
        (
            partial(HeavyBall, lr=0.1, momentum=0.8, weight_decay=0.01),
            partial(SGD, lr=0.1, momentum=0.8, weight_decay=0.01),
        ),
        (
            partial(Nesterov, lr=0.1, momentum=0.8, weight_decay=0.01),
            partial(SGD, lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
        ),
    ],
)
def test_the_integrator_is_the_optimiser_of_torch_step_for_step(ours: Any, theirs: Any, groups: bool) -> None:
    _together(ours, theirs, groups)


def test_rising_momentum_is_the_recursion_of_su_boyd_and_candes() -> None:
    eta, count = 0.02, 25
    found = descend(partial(Nesterov, momentum=None, lr=eta), LAMBDAS, count)
    x = y = torch.ones_like(LAMBDAS)
    for k in range(1, count + 1):
        new = y - eta * LAMBDAS * y
        y = new + k / (k + 3) * (new - x)
        x = new
        torch.testing.assert_close(found[k], y, rtol=1e-11, atol=1e-13)


def test_rising_momentum_keeps_nesterovs_bound() -> None:
    curvatures = torch.logspace(-6, 0, 40, dtype=torch.float64)
    found = descend(partial(Nesterov, momentum=None, lr=1.0), curvatures, 200)
    k = torch.arange(1, 201, dtype=torch.float64)
    # The bound is of x; y is an extrapolation of it, so that x_k = y_{k-1} - η ∇L(y_{k-1}).
    x = found[:-1] * (1 - curvatures)
    losses = 0.5 * (curvatures * x.square()).sum(1)
    assert bool((losses <= 2 * 40 / (k + 1) ** 2).all())
    plain = descend(partial(GradientFlow, lr=1.0), curvatures, 200)[-1]
    assert losses[-1] < 0.5 * (curvatures * plain.square()).sum()


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (partial(GradientFlow), 2.0),
        (partial(HeavyBall, momentum=0.9), 2 * 1.9),
        (partial(HeavyBall, momentum=0.3), 2 * 1.3),
        (partial(Nesterov, momentum=0.9), 2 * 1.9 / 2.8),
        (partial(GradientFlow, stepper=RK4()), 2.785293563405282),
        (partial(SemilinearFlow, curvature=DiagonalCurvature(every=1)), math.inf),
    ],
)
def test_the_stability_limit_is_the_textbook_one(make: Any, limit: float) -> None:
    assert stability_limit(make) == pytest.approx(limit, rel=1e-7)


def test_the_proximal_step_is_stable_for_any_step_size() -> None:
    make = partial(GradientFlow, stepper=ImplicitEuler(EXACT))
    z = torch.tensor([1e-2, 1.0, 1e2, 1e4], dtype=torch.float64)
    torch.testing.assert_close(amplification(make, z), 1 / (1 + z), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("make", "limit"), [(GradientFlow, 2.0), (partial(HeavyBall, momentum=0.6), 3.2), (partial(SGD, momentum=0.6), 3.2)]
)
def test_iterates_converge_just_below_the_limit_and_diverge_just_above(make: Any, limit: float) -> None:
    eta = limit / LAMBDAS.max().item()
    below = descend(partial(make, lr=eta * 0.999), LAMBDAS, 1200)[-1, -1].abs()
    above = descend(partial(make, lr=eta * 1.001), LAMBDAS, 1200)[-1, -1].abs()
    assert below < 0.1
    assert above > 10


def test_amplification_of_momentum_has_its_closed_form() -> None:
    z, beta = torch.linspace(0.01, 4.5, 60, dtype=torch.float64), 0.8
    trace = torch.complex(1 + beta - z, torch.zeros_like(z))
    root = (trace.square() - 4 * beta).sqrt()
    wanted = torch.maximum((trace + root).abs(), (trace - root).abs()) / 2
    torch.testing.assert_close(amplification(partial(HeavyBall, momentum=beta), z), wanted, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(amplification(GradientFlow, z), (1 - z).abs(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_the_ball_swings_creeps_or_is_critical_as_its_curvature_says(ratio: float) -> None:
    """Decay rates of the damped oscillator: γ/2 below, the slower root above the critical damping."""
    eta, beta = 1e-4, 0.99
    step, friction = (constants := ball_constants(eta, beta)).step, constants.friction
    curvature = torch.tensor([constants.critical_curvature * ratio], dtype=torch.float64)
    count = int(12 / friction / step)
    found = descend(partial(HeavyBall, lr=eta, momentum=beta), curvature, count)[:, 0]
    t = step * torch.arange(count + 1, dtype=torch.float64)
    half, w2 = friction / 2, curvature.item() - friction**2 / 4
    if ratio > 1:
        w = math.sqrt(w2)
        exact = torch.exp(-half * t) * (torch.cos(w * t) + half / w * torch.sin(w * t))
        assert int((found[1:] * found[:-1] < 0).sum()) == int(w * 12 / friction / math.pi + 0.5)
    elif ratio < 1:
        w = math.sqrt(-w2)
        exact = torch.exp(-half * t) * (torch.cosh(w * t) + half / w * torch.sinh(w * t))
        assert bool((found > 0).all())
    else:
        exact = torch.exp(-half * t) * (1 + half * t)
        assert bool((found > 0).all())
    assert float((found - exact).abs().max()) < 0.03


def _reference(times: float, momentum: bool, friction: float = 0.0) -> Tensor:
    network = TinyNetwork()
    sizes = network.first.numel()

    def slope(t: Tensor, y: Tensor, cond: None) -> Tensor:
        with torch.enable_grad():
            first, last = y[0, :sizes].view(6, 2).requires_grad_(), y[0, sizes:].view(1, 6).requires_grad_()
            loss = ((network.x @ first.T).tanh() @ last.T - network.y).square().mean()
            grads = torch.autograd.grad(loss, (first, last))
        return -torch.cat([grad.reshape(-1) for grad in grads])[None]

    start = network.vector()[None]
    controller = PIDController(rtol=1e-11, atol=1e-12)
    if not momentum:
        return solve(ODEProblem(slope, start, 0.0, times), Dopri5(), controller).ys[-1, 0]
    ball = SecondOrderProblem(slope, start, torch.zeros_like(start), 0.0, times, friction=friction)
    return solve(ball, Dopri5(), controller).ys[-1, 0, 0]


def _slope(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (partial(GradientFlow), 1),
        (partial(GradientFlow, stepper=Heun()), 2),
        (partial(GradientFlow, stepper=RK4()), 4),
        (partial(GradientFlow, stepper=ImplicitEuler(EXACT)), 1),
        (partial(GradientFlow, stepper=ImplicitMidpoint(EXACT)), 2),
        (partial(SemilinearFlow, stepper=ETD1(), curvature=DiagonalCurvature(every=1)), 1),
        (partial(SemilinearFlow, stepper=ETD2RK(), curvature=DiagonalCurvature(every=10**6)), 2),
        (partial(SemilinearFlow, stepper=IMEXEuler(), curvature=DiagonalCurvature(every=10**6)), 1),
    ],
)
def test_the_optimiser_converges_to_gradient_flow_at_the_order_of_its_method(make: Any, order: int) -> None:
    span = 3.2
    truth = _reference(span, momentum=False)
    errors = []
    for steps in (32, 64):
        network = TinyNetwork()
        optimizer = make(network.parameters(), lr=span / steps)
        for _ in range(steps):
            optimizer.step(network.closure(optimizer))
        errors.append(float((network.vector() - truth).norm()))
    assert _slope(errors) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    ("make", "order"), [(partial(HeavyBall), 1), (partial(HeavyBall, stepper=Leapfrog()), 2), (partial(Nesterov), 1)]
)
def test_momentum_converges_to_the_heavy_ball_equation(make: Any, order: int) -> None:
    span, friction = 4.0, 1.0
    truth = _reference(span, momentum=True, friction=friction)
    errors = []
    for steps in (100, 200):
        h = span / steps
        beta = math.exp(-friction * h)
        eta = h * (1 - beta) / friction
        assert ball_constants(eta, beta) == pytest.approx((h, friction))
        network = TinyNetwork()
        optimizer = make(network.parameters(), lr=eta, momentum=beta)
        for _ in range(steps):
            optimizer.step(network.closure(optimizer))
        errors.append(float((network.vector() - truth).norm()))
    assert _slope(errors) == pytest.approx(order, abs=0.25)


def test_the_coasting_step_and_symplectic_euler_agree_on_a_free_ball() -> None:
    start = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    free = SecondOrderProblem(lambda t, x, c: torch.zeros_like(x), start, start, 0.0, 1.0, friction=0.7)
    one, two = (solve(free, stepper, ConstantSteps(5)).ys for stepper in (CoastingEuler(), SymplecticEuler()))
    torch.testing.assert_close(one, two)


def test_adaptive_steps_stay_inside_the_stability_interval_of_a_stiff_bowl() -> None:
    curvatures = torch.tensor([0.05, 1.0, 1000.0], dtype=torch.float64)
    theta = nn.Parameter(torch.ones_like(curvatures))
    optimizer = AdaptiveGradientFlow([theta], stepper=Heun(), lr=10.0)
    closure = bowl(curvatures, theta, optimizer)
    losses, sizes = [], []
    for _ in range(400):
        losses.append(optimizer.step(closure).item())
        sizes.append(optimizer.param_groups[0]["step_size"])
    products = torch.tensor(sizes[100:]) * 1000
    assert products.max() < 3.0  # overshoots are rejected before they harm
    assert float(products.mean()) == pytest.approx(2.0, rel=1e-2)  # where Heun's interval ends
    assert max(losses) == losses[0]
    flowed = torch.exp(-curvatures * sum(sizes[:-1]))
    assert losses[-1] == pytest.approx(0.5 * float((curvatures * flowed.square()).sum()), rel=0.02)
    assert optimizer.evaluations < 3 * 400


def test_a_step_whose_error_is_too_large_is_rejected_and_a_shorter_one_taken() -> None:
    curvatures = torch.tensor([1000.0], dtype=torch.float64)
    theta = nn.Parameter(torch.ones_like(curvatures))
    optimizer = AdaptiveGradientFlow([theta], stepper=Heun(), lr=10.0)
    optimizer.param_groups[0]["next_step"] = 1.0
    optimizer.step(bowl(curvatures, theta, optimizer))
    assert 0 < theta.item() < 1
    assert optimizer.param_groups[0]["step_size"] < 2e-3
    assert optimizer.evaluations > 2


def test_a_controlled_learning_rate_settles_below_two_over_the_curvature() -> None:
    curvatures = torch.tensor([0.02, 50.0], dtype=torch.float64)
    theta = nn.Parameter(torch.ones_like(curvatures))
    optimizer = PIDLearningRate([theta], partial(SGD, lr=10.0), first=1e-4)
    closure = bowl(curvatures, theta, optimizer)
    sizes, losses = [], []
    for _ in range(600):
        losses.append(optimizer.step(closure).item())
        sizes.append(optimizer.param_groups[0]["step_size"])
    products = torch.tensor(sizes[200:]) * 50
    assert 1.0 < products.mean() <= 2.0
    assert max(losses) == losses[0]
    assert losses[-1] < 0.02


def test_the_curvature_of_a_coupled_quadratic_is_its_diagonal_on_average() -> None:
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    theta = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = SemilinearFlow([theta], lr=0.0, curvature=DiagonalCurvature(every=1, decay=0.999))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * theta @ matrix @ theta
        loss.backward()
        return loss

    for _ in range(400):
        optimizer.step(closure)
    torch.testing.assert_close(optimizer.state[theta]["curvature"], matrix.diagonal(), rtol=0.05, atol=0.0)
