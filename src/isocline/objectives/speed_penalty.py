"""Penalty on higher derivatives of a continuous flow's paths: fields that a high-order solver crosses in few steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.continuous_flow import ContinuousFlow
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem

__all__ = ["SpeedPenalty", "total_derivative"]

Field = Callable[[Tensor, Tensor], Tensor]


def total_derivative(field: Field, order: int) -> Field:
    """Return (t, x) ↦ d^K x/dt^K along dx/dt = f(t, x), by forward mode nested K − 1 times.

    From g_1 = f, g_{k+1} = ∂g_k/∂t + (∂g_k/∂x) f: exponential in K, and cheap for the small K of regularisation.

    Args:
        field: f(t, x) of x's shape.
        order: K.

    Raises:
        ValueError: if the order is below 1.
    """
    if order < 1:
        raise ValueError(f"order = {order}: must be at least 1")
    found = field
    for _ in range(order - 1):
        found = _along(found, field)
    return found


def _along(function: Field, field: Field) -> Field:
    def derivative(t: Tensor, x: Tensor) -> Tensor:
        result: Tensor = torch.func.jvp(function, (t, x), (torch.ones_like(t), field(t, x)))[1]
        return result

    return derivative


class SpeedPenalty(Objective):
    """An objective plus w E ∫_0^1 ‖d^K x/dt^K‖²/d dt over the paths that start at the data.

    K = 2 penalises acceleration; K = p + 1 the local error of a method of order p. It solves the flow a second time.

    Source: *Learning Differential Equations that are Easy to Solve*, Kelly, Bettencourt, Johnson & Duvenaud, 2020,
    Eq. 1 (TayNODE).

    Args:
        objective: what is penalised, of a field on ``(B, d)`` from data (t = 0) to noise (t = 1).
        weight: w.
        order: K.
        flow: solver and gradient.

    Raises:
        ValueError: if the weight is negative or the order below 1.
    """

    def __init__(self, objective: Objective, weight: float, order: int = 2, flow: ContinuousFlow | None = None) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"weight = {weight}: must be a number, and not negative")
        if order < 1:
            raise ValueError(f"order = {order}: must be at least 1")
        self.objective = objective
        self.weight = weight
        self.order = order
        self.flow = ContinuousFlow() if flow is None else flow

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate both on ``batch.x0`` ``(B, d)``; the logged term ``speed`` is the integral without its weight."""
        loss = self.objective(network, batch, generator)
        x = batch.x0.to(torch.float64)
        start = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
        problem = ODEProblem(_WithSpeed(network, self.order, batch.x0.dtype), start, 0.0, 1.0)
        gradient = self.flow.gradient if torch.is_grad_enabled() else None
        solution = solve_strict(problem, self.flow.stepper, self.flow.controller, gradient=gradient)
        speed = solution.final[:, -1].mean()
        return Loss(loss.total + self.weight * speed, loss.terms | {"speed": speed.detach()})

    def after_step(self, network: nn.Module, step: int) -> None:
        """Hand on to the objective."""
        self.objective.after_step(network, step)


class _WithSpeed(nn.Module):
    """The field with ‖d^K x/dt^K‖²/d beside it, on float64 states ``(B, d + 1)``; a module for its parameters."""

    def __init__(self, network: nn.Module, order: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.order = order
        self.dtype = dtype

    def forward(self, t: Tensor, state: Tensor, cond: Any = None) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            slope: Tensor = self.network(t, x, None)
            return slope

        x = state[:, :-1].to(self.dtype)
        high = total_derivative(field, self.order)(t, x).to(torch.float64)
        return torch.cat([field(t, x).to(torch.float64), high.square().mean(1, keepdim=True)], dim=1)
