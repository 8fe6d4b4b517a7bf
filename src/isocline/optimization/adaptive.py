"""Gradient flow with error control: each step is as long as its local error allows."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.optimization.base import AbstractFlowOptimizer, Parameters
from isocline.optimization.flat_parameters import FlatParameters, LossGradient
from isocline.optimization.gradient_flow import descent
from isocline.solvers.controller import AbstractAdaptiveController, PIDController
from isocline.solvers.explicit import Heun
from isocline.solvers.problem import ODEProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AdaptiveGradientFlow"]

_TRIALS = 10


class AdaptiveGradientFlow(AbstractFlowOptimizer):
    """``dθ/dt = -∇L(θ) - w θ`` by an embedded pair; every call of `step` takes one step that the controller accepts.

    The step size is the core's controller's, from the pair's estimate of the local error of this step, and goes on from
    step to step; ``lr`` is its upper bound, which a schedule may lower. Steps that are rejected cost gradients of the
    same minibatch. On a quadratic the step settles where the method is just stable: an explicit pair cannot follow a
    stiff flow any faster.

    Attributes:
        stepper: a method with an error estimate.
        controller: tolerances are of the parameters in a step: ``atol + rtol |θ|``, root mean square.

    The groups' ``step_size`` is the length of the last step in the flow's time, ``next_step`` that of the one to try.
    """

    def __init__(
        self,
        params: Parameters,
        stepper: AbstractStepper | None = None,
        controller: AbstractAdaptiveController | None = None,
        lr: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        """Take a pair and a controller.

        Args:
            params: parameters or groups of them; groups share the clock of the first, and move ``lr / lr of the first``
                times as fast.
            stepper: Heun's method with Euler's embedded by default: two gradients a step.
            controller: the core's PI controller with tolerance 1e-3 by default.
            lr: longest step.
            weight_decay: w, part of the field.

        Raises:
            ValueError: if a number is negative, or the stepper has no error estimate.
        """
        self.stepper = Heun() if stepper is None else stepper
        if self.stepper.error_order is None:
            raise ValueError(
                f"{type(self.stepper).__name__} has no error estimate, which adaptive steps need; take Heun, Bosh3 or "
                "Tsit5"
            )
        self.controller = (
            PIDController(rtol=1e-3, atol=1e-3, pcoeff=0.3, icoeff=0.4, joint=True)
            if controller is None
            else controller
        )
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "step_size": 0.0, "next_step": 0.0})
        for group in self.param_groups:
            group.setdefault("memory", [0.0, 0.0])

    def advance(self, flat: FlatParameters, gradient: LossGradient, start: Tensor) -> Tensor:
        """Try steps until one is accepted; after ten rejections the last one is taken, if it is finite."""
        group = self.param_groups[0]
        longest = float(group["lr"])
        if longest == 0:
            gradient(start)
            return start
        rate = flat.value("lr") / longest
        problem = ODEProblem(descent(gradient, rate, flat.value("weight_decay")), start, 0.0, longest)
        zero = torch.zeros((), dtype=torch.float64, device=start.device)
        # The loss may have changed since the last step: no slope is carried over.
        carry = self.stepper.init(problem, zero, start)
        size = group["next_step"] or self._first(problem, longest, carry)
        memory, order = tuple(group["memory"]), self.stepper.error_order
        assert order is not None
        end = start
        for _ in range(_TRIALS):
            tried = min(size, longest)
            result = self.stepper.step(problem, zero, zero + tried, start, carry)
            assert result.error is not None
            verdict = self.controller.decide_jointly(result.error, start, result.y1, memory, order)
            size = tried * verdict.factor
            end = result.y1 if verdict.finite else start
            if verdict.accept:
                break
        for each in self.param_groups:
            each.update(step_size=tried, next_step=size, memory=list(verdict.memory))
        return end

    def _first(self, problem: ODEProblem, longest: float, carry: object) -> float:
        ends = torch.tensor([[0.0], [longest]], dtype=torch.float64, device=problem.y0.device)
        slope = self.stepper.initial_slope(carry)
        return float(self.controller.initial_step(problem, self.stepper, ends[0], ends[1], slope).size)
