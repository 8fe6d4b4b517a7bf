"""How far an optimiser is from the equation of motion that it integrates, over its step size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from isocline.dynamics.small_regression import Regression
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall, ball_constants
from isocline.solvers.controller import PIDController
from isocline.solvers.explicit import RK4, Dopri5, Euler, Heun
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem
from isocline.solvers.separable import SecondOrderProblem
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.symplectic import Leapfrog, SymplecticEuler

__all__ = ["FlowDistanceSettings", "FlowDistances", "flow_distances"]


@dataclass(frozen=True)
class FlowDistanceSettings:
    """Which methods, and for how long.

    Attributes:
        flows: one-step methods of gradient flow, by name.
        balls: splitting methods of the heavy ball, by name.
        span: of gradient flow's time.
        steps: numbers of steps over the span, rising; each is one step size.
        ball_span: of the ball's time.
        friction: of the ball.
        tolerance: of the reference solution.

    Raises:
        ValueError: if a number is out of range.
    """

    flows: Mapping[str, AbstractStepper] = field(
        default_factory=lambda: {"gradient_flow": Euler(), "heun": Heun(), "runge_kutta": RK4()}
    )
    balls: Mapping[str, AbstractStepper] = field(
        default_factory=lambda: {"heavy_ball": SymplecticEuler(), "leapfrog": Leapfrog()}
    )
    span: float = 4.0
    steps: Sequence[int] = (20, 40, 80, 160)
    ball_span: float = 4.0
    friction: float = 1.0
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if min(self.span, self.ball_span, self.friction, self.tolerance) <= 0 or list(self.steps) != sorted(self.steps):
            raise ValueError("distance: span, ball_span, friction and tolerance must be positive, steps rising")
        if len(self.steps) < 2 or min(self.steps) < 1:
            raise ValueError(f"distance.steps={list(self.steps)}; give at least two numbers of steps")


@dataclass(frozen=True)
class FlowDistances:
    """Distances at the end of the span over the way that the exact motion goes.

    Attributes:
        steps: numbers of steps.
        distances: at these, by method; infinite where the method diverged.
        orders: slope between the two smallest step sizes, by method.
    """

    steps: tuple[int, ...]
    distances: Mapping[str, tuple[float, ...]]
    orders: Mapping[str, float]


def flow_distances(settings: FlowDistanceSettings, regression: Regression) -> FlowDistances:
    """Run each method at each step size, and compare its end with that of an accurate solve by the core.

    Args:
        settings: methods and spans.
        regression: network and data, at the start; its weights are put back there.
    """
    start = regression.vector()[None]
    field_, precise = regression.flow(), PIDController(rtol=settings.tolerance, atol=settings.tolerance)
    flow = solve_strict(ODEProblem(field_, start, 0.0, settings.span), Dopri5(), precise).ys[-1, 0]
    resting = torch.zeros_like(start)
    ball = SecondOrderProblem(field_, start, resting, 0.0, settings.ball_span, friction=settings.friction)
    end = solve_strict(ball, Dopri5(), precise).ys[-1, 0, 0]
    found: dict[str, tuple[float, ...]] = {}
    for name, stepper in settings.flows.items():
        makes = [_flow(stepper, settings.span / count) for count in settings.steps]
        found[name] = _distances(regression, start[0], makes, settings.steps, flow)
    for name, stepper in settings.balls.items():
        makes = [_ball(stepper, settings.ball_span / count, settings.friction) for count in settings.steps]
        found[name] = _distances(regression, start[0], makes, settings.steps, end)
    ratio = math.log(settings.steps[-1] / settings.steps[-2])
    orders = {name: math.log(errors[-2] / errors[-1]) / ratio for name, errors in found.items()}
    return FlowDistances(tuple(settings.steps), found, orders)


Factory = Callable[[list[torch.nn.Parameter]], Optimizer]


def _flow(stepper: AbstractStepper, lr: float) -> Factory:
    return lambda params: GradientFlow(params, stepper, lr=lr)


def _ball(stepper: AbstractStepper, h: float, friction: float) -> Factory:
    momentum = math.exp(-friction * h)
    lr = h * (1 - momentum) / friction
    assert math.isclose(ball_constants(lr, momentum).step, h, rel_tol=1e-6)
    return lambda params: HeavyBall(params, lr=lr, momentum=momentum, stepper=stepper)


def _distances(
    regression: Regression, start: Tensor, makes: Sequence[Factory], steps: Sequence[int], end: Tensor
) -> tuple[float, ...]:
    found = []
    for make, count in zip(makes, steps, strict=True):
        _put(regression, start)
        optimizer = make(regression.parameters)
        closure = regression.closure(optimizer)
        for _ in range(count):
            optimizer.step(closure)
        gap = float((regression.vector() - end).norm() / (end - start).norm())
        found.append(gap if math.isfinite(gap) else math.inf)
    _put(regression, start)
    return tuple(found)


def _put(regression: Regression, vector: Tensor) -> None:
    # The parameters become views of what they are given.
    torch.nn.utils.vector_to_parameters(vector.clone(), regression.parameters)
