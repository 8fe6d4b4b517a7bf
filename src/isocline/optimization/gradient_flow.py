"""Gradient flow by any one-step method of the solver core: gradient descent, Runge–Kutta, the proximal point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from isocline.optimization.base import AbstractFlowOptimizer, Parameters
from isocline.optimization.flat_parameters import FlatParameters, LossGradient
from isocline.solvers.explicit import Euler
from isocline.solvers.problem import ODEProblem, VectorField
from isocline.solvers.stepper import AbstractStepper

__all__ = ["GradientFlow", "descent"]


class GradientFlow(AbstractFlowOptimizer):
    """``dθ/dt = -∇L(θ) - w θ`` by steps of length ``lr``.

    By explicit Euler this is gradient descent, ``θ - η (∇L + w θ)``. Explicit Runge–Kutta methods follow the flow to a
    higher order at one gradient per stage; their largest stable ``η λ_max`` grows more slowly than their cost (2 for
    Euler, 2.79 for RK4). By implicit Euler it is the proximal point method, ``argmin L(ϑ) + |ϑ - θ|² / (2 η)``, stable
    for any η; the stepper's stage solver solves its inner problem, without Jacobians if it is
    `isocline.optimization.proximal.AndersonStages`.

    Attributes:
        stepper: the method; one that carries slopes from step to step starts anew at each, as the loss may have
            changed (another minibatch).
        unsolved: steps whose stage equations were not solved to their tolerance; they are taken nonetheless.

    Source: Rockafellar, Monotone operators and the proximal point algorithm (1976); Hairer, Lubich, Energy-diminishing
    integration of gradient systems (2014).
    """

    def __init__(
        self, params: Parameters, stepper: AbstractStepper | None = None, lr: float = 1e-2, weight_decay: float = 0.0
    ) -> None:
        """Take a method.

        Args:
            params: parameters or groups of them.
            stepper: any one-step method on an `isocline.solvers.ODEProblem`; explicit Euler by default.
            lr: η, the step in the flow's time.
            weight_decay: w, the rate of decay; part of the field.

        Raises:
            ValueError: if a number is negative.
        """
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.stepper = Euler() if stepper is None else stepper
        self.unsolved = 0

    def advance(self, flat: FlatParameters, gradient: LossGradient, start: Tensor) -> Tensor:
        """One step of unit length along the field times ``lr``, so that groups may differ in it."""
        problem = ODEProblem(descent(gradient, flat.value("lr"), flat.value("weight_decay")), start, 0.0, 1.0)
        t0, t1 = torch.tensor([0.0, 1.0], dtype=torch.float64, device=start.device).unbind(0)
        result = self.stepper.step(problem, t0, t1, start, self.stepper.init(problem, t0, start))
        if result.failed is not None:
            self.unsolved += int(result.failed)
        return result.y1


def descent(gradient: Callable[[Tensor], Tensor], rate: float | Tensor, decay: float | Tensor) -> VectorField:
    """The field ``-rate (∇L(θ) + decay θ)``.

    Args:
        gradient: ∇L, (1, n) to (1, n).
        rate: one number, or one for each component, shape (n,).
        decay: likewise.
    """
    plain = not isinstance(decay, Tensor) and decay == 0

    def field(t: Tensor, y: Tensor, cond: object) -> Tensor:
        slope = gradient(y)
        return slope.mul(-rate) if plain else (slope + decay * y).mul(-rate)

    return field
