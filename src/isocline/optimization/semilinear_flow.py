"""Gradient flow whose linear part is taken implicitly or exactly: weight decay, and an estimate of the curvature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.optimization.base import AbstractFlowOptimizer, Parameters
from isocline.optimization.curvature import DiagonalCurvature
from isocline.optimization.flat_parameters import FlatParameters, LossGradient
from isocline.shapes import expand_like
from isocline.solvers.exponential import ETD1
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.semilinear import DiagonalLinear, SemilinearProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["IMEXEuler", "SemilinearFlow"]


class IMEXEuler(AbstractStepper):
    """``(1 - h A) y1 = y0 + h g(t0, y0)`` for a diagonal A: linear part implicit, the rest explicit, order 1.

    Source: Ascher, Ruuth, Wetton, Implicit-explicit methods for time-dependent partial differential equations (1995).
    """

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class.

        Raises:
            TypeError: if the problem has no diagonal linear part.
        """
        if not isinstance(problem, SemilinearProblem) or not isinstance(problem.linear, DiagonalLinear):
            raise TypeError(
                f"IMEXEuler got a {type(problem).__name__}; expected a SemilinearProblem with a DiagonalLinear part"
            )
        h = expand_like(t1 - t0, y0).to(y0.dtype)
        explicit = torch.addcmul(y0, h, problem.evaluate_remainder(t0, y0))
        return StepResult(explicit / (1 - h * problem.linear.values.to(y0.dtype)))


class SemilinearFlow(AbstractFlowOptimizer):
    """``dθ/dt = -(w + D) θ + (D θ - ∇L(θ))`` by a method that takes the first part implicitly or exactly.

    D is zero, and the linear part weight decay alone, or a diagonal estimate of the Hessian. With D, `IMEXEuler` is
    ``θ - η ∇L / (1 + η D)`` (for w = 0), and `isocline.solvers.ETD1` is ``θ - (1 - exp(-η D)) / D · ∇L``: gradient
    descent where ``η D`` is small, the diagonal Newton step where it is large, and the exact flow of a diagonal
    quadratic. Decay is stable for any ``η w``.

    Attributes:
        stepper: `IMEXEuler`, or an exponential method: ETD1 needs one gradient a step, ETD2RK two.
        curvature: how D is estimated; None for no D.

    Source: Hochbruck, Ostermann, Exponential integrators (2010), section 2.4 (exponential Rosenbrock methods).
    """

    def __init__(
        self,
        params: Parameters,
        stepper: AbstractStepper | None = None,
        lr: float = 1e-2,
        weight_decay: float = 0.0,
        curvature: DiagonalCurvature | None = None,
    ) -> None:
        """Take a method and an estimate.

        Args:
            params: parameters or groups of them.
            stepper: ETD1 by default.
            lr: η.
            weight_decay: w, part of A.
            curvature: estimate of the Hessian's diagonal; needs a closure.

        Raises:
            ValueError: if a number is negative.
        """
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "steps": 0})
        self.stepper = ETD1() if stepper is None else stepper
        self.curvature = curvature

    def advance(self, flat: FlatParameters, gradient: LossGradient, start: Tensor) -> Tensor:
        """One step of unit length, A and g times ``lr``."""
        rate, decay = flat.value("lr"), flat.value("weight_decay")
        shared: float | Tensor = 0.0
        if self.curvature is not None:
            count = self.param_groups[0]["steps"]
            shared = self.curvature.update(flat, self.state, gradient, start, count)
            for group in self.param_groups:
                group["steps"] = count + 1
        linear = -rate * (decay + shared)
        values = linear if isinstance(linear, Tensor) else start.new_full((1,), linear)

        def remainder(t: Tensor, y: Tensor, cond: object) -> Tensor:
            return rate * (shared * y - gradient(y))

        problem = SemilinearProblem(DiagonalLinear(values.reshape(-1)), remainder, start, 0.0, 1.0)
        t0, t1 = torch.tensor([0.0, 1.0], dtype=torch.float64, device=start.device).unbind(0)
        return self.stepper.step(problem, t0, t1, start, self.stepper.init(problem, t0, start)).y1
