"""Nesterov's method as an integrator: symplectic Euler whose force is taken where the ball would coast to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.optimization.base import AbstractFlowOptimizer, Parameters
from isocline.optimization.flat_parameters import FlatParameters, LossGradient
from isocline.optimization.heavy_ball import ball_problem, friction_of
from isocline.shapes import expand_like
from isocline.solvers.phi import phi_functions
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.separable import AbstractSeparableProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["CoastingEuler", "Nesterov"]


class CoastingEuler(AbstractStepper):
    """``v1 = exp(-γh) v + h φ_1(-γh) force(x + h exp(-γh) v)``, ``x1 = x + h v1``, order 1.

    The force is taken where the ball would be without it: half-way to an implicit method, it damps fast oscillations
    that symplectic Euler leaves alone. States are stacked as for `isocline.solvers.SymplecticEuler`.

    Source: Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep learning (2013),
    section 2.1; Su, Boyd, Candès, A differential equation for modeling Nesterov's accelerated gradient method (2014).
    """

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class.

        Raises:
            TypeError: if the problem has no positions and velocities apart.
        """
        if not isinstance(problem, AbstractSeparableProblem):
            raise TypeError(
                f"CoastingEuler got a {type(problem).__name__}; expected a SecondOrderProblem or a HamiltonianProblem"
            )
        x, v = y0.unbind(1)
        tau = expand_like(t1 - t0, x)
        shrink, mean = phi_functions(-tau * problem.friction, 1)
        h, coasting = tau.to(x.dtype), shrink.to(v.dtype) * v
        force = problem.force(t0, torch.addcmul(x, h, problem.velocity(t0, coasting)))
        v1 = torch.addcmul(coasting, (tau * mean).to(v.dtype), force)
        return StepResult(torch.stack([torch.addcmul(x, h, problem.velocity(t0, v1)), v1], 1))


class Nesterov(AbstractFlowOptimizer):
    """Nesterov's accelerated gradient: ``θ'' + (3/t) θ' = -∇L(θ)``, or with constant friction, by `CoastingEuler`.

    ``x_{k+1} = y_k - η ∇L(y_k)``, ``y_{k+1} = x_{k+1} + β_{k+1} (x_{k+1} - x_k)``. The parameters are the y, where
    gradients are wanted, as in `torch.optim.SGD(nesterov=True)`, which this is for a constant ``momentum``. Without
    one, ``β_k = (k - 1) / (k + 2)``: friction 3/t in the time ``t = k √η``, which for convex losses gives
    ``L(x_k) - L* <= 2 |x_0 - x*|² / (η (k + 1)²)`` up to ``η λ_max = 1``. With momentum it is stable for
    ``η λ_max < 2 (1 + β) / (1 + 2 β)``.

    Source: Nesterov, A method of solving a convex programming problem with convergence rate O(1/k²) (1983); Su, Boyd,
    Candès (2014), section 2.
    """

    def __init__(
        self, params: Parameters, lr: float = 1e-2, momentum: float | None = 0.9, weight_decay: float = 0.0
    ) -> None:
        """Take the constants in torch's terms.

        Args:
            params: parameters or groups of them.
            lr: η.
            momentum: β, between 0 and 1; None lets it rise with the steps.
            weight_decay: w, part of the force.

        Raises:
            ValueError: if a value is out of range.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": 0})
        self.stepper = CoastingEuler()

    def advance(self, flat: FlatParameters, gradient: LossGradient, start: Tensor) -> Tensor:
        """From y to the ball's own position x, one step of unit length, and to the next y."""
        count = self.param_groups[0]["steps"]
        now, following = self._momentum(flat, count), self._momentum(flat, count + 1)
        rate = flat.value("lr")
        kept = flat.load(self.state, "momentum_buffer")
        momenta = torch.zeros_like(start) if kept is None else -kept[None]
        # A ball at rest coasts nowhere: β is zero at the first step, and its friction would be infinite.
        friction = 0.0 if not isinstance(now, Tensor) and now == 0 else friction_of(now)
        problem = ball_problem(flat, gradient, start - rate * now * momenta, momenta, friction)
        t0, t1 = torch.tensor([0.0, 1.0], dtype=torch.float64, device=start.device).unbind(0)
        x, p = self.stepper.step(problem, t0, t1, problem.start, None).y1.unbind(1)
        flat.store(self.state, "momentum_buffer", -p[0])
        for group in self.param_groups:
            group["steps"] = count + 1
        return x + rate * following * p

    def _momentum(self, flat: FlatParameters, count: int) -> float | Tensor:
        """β of the y of a step, counted from zero."""
        rising = [group["momentum"] is None for group in self.param_groups]
        if any(rising) and not all(rising):
            raise ValueError("momentum is None in some groups only; give all groups a momentum, or none")
        return count / (count + 3) if all(rising) else flat.value("momentum")
