"""The Euler–Maruyama step for stochastic differential equations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from isocline.solvers.brownian import BrownianIncrement
from isocline.solvers.problem import Calculus, SDEProblem
from isocline.solvers.sde import AbstractSDEStepper, Span, StochasticStep

__all__ = ["EulerMaruyama"]


class EulerMaruyama(AbstractSDEStepper):
    """``y1 = y + f(t, y) Δt + g(t, y) ΔW`` for an Itô `SDEProblem`.

    Strong order 1/2 (1 for additive noise), weak order 1. Without an error estimate on purpose: its leading error
    ``g ∂g/∂y (ΔW² - Δt)/2`` has mean zero over steps chosen beforehand only, so that with steps chosen by looking at
    the path it converges to something else.

    Source: Maruyama (1955); Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, section 10.2;
    on adaptive steps Gaines and Lyons, Variable step size control in the numerical solution of SDEs (1997).
    """

    order = 0.5
    nfe_per_step = 1
    calculi: ClassVar[frozenset[Calculus]] = frozenset({Calculus.ITO})

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        kick = problem.diffuse(span.t0, y0) * noise.w
        return StochasticStep(torch.addcmul(y0, span.h, problem.evaluate(span.t0, y0)) + kick)
