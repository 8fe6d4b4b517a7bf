"""The Euler–Maruyama step for stochastic differential equations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.problem import AbstractProblem, SDEProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["EulerMaruyama"]


class EulerMaruyama(AbstractStepper):
    """``y1 = y + f(t, y) Δt + g(t, y) √|Δt| ξ`` for an `SDEProblem`.

    Strong order 1/2 (1 for additive noise), weak order 1.

    Source: Maruyama (1955); Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, section 10.2.
    """

    order = 0.5
    nfe_per_step = 1

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class.

        Raises:
            TypeError: if the problem is not an `SDEProblem`.
        """
        if not isinstance(problem, SDEProblem):
            raise TypeError(f"EulerMaruyama got a {type(problem).__name__}; expected an SDEProblem")
        dt = t1 - t0
        h = expand_like(dt, y0).to(y0.dtype)
        noise = problem.diffusion(t0, y0, problem.cond) * problem.increment(expand_like(dt, y0), y0)
        return StepResult(torch.addcmul(y0, h, problem.evaluate(t0, y0)) + noise)
