"""Heun's methods for Stratonovich equations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from isocline.solvers.brownian import BrownianIncrement
from isocline.solvers.problem import Calculus, SDEProblem
from isocline.solvers.sde import AbstractSDEStepper, Span, StochasticStep

__all__ = ["EulerHeun", "StratonovichHeun"]


class EulerHeun(AbstractSDEStepper):
    """``y1 = y + f(t, y) Δt + (g(t, y) + g(t1, y + g ΔW)) ΔW / 2``: Euler in the drift, Heun in the noise.

    One evaluation of the drift. Strong order 1 for diagonal noise, weak order 1.

    Source: the noise's part of the method of Rümelin, Numerical treatment of stochastic differential equations (1982).
    """

    order = 1.0
    nfe_per_step = 1
    calculi: ClassVar[frozenset[Calculus]] = frozenset({Calculus.STRATONOVICH})

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        g0 = problem.diffuse(span.t0, y0)
        g1 = problem.diffuse(span.t1, y0 + g0 * noise.w)
        return StochasticStep(torch.addcmul(y0, span.h, problem.evaluate(span.t0, y0)) + (g0 + g1) * noise.w / 2)


class StratonovichHeun(AbstractSDEStepper):
    """The trapezoidal predictor–corrector along the path, for adaptive or fixed steps.

    ``ŷ = y + f(t, y) Δt + g(t, y) ΔW``, ``y1 = y + (f(t, y) + f(t1, ŷ)) Δt / 2 + (g(t, y) + g(t1, ŷ)) ΔW / 2``. Strong
    order 1 for diagonal noise, 2 where there is none. The error is the distance from an Euler–Heun step in midpoint
    form, ``y + f(t, y) Δt + g(t, (y + ŷ)/2) ΔW``: of order 3/2, and it sees drift, curvature of the noise in the state
    and its change in time. It uses increments of the path only, so that adaptive steps converge to the right solution.

    Source: Rümelin, Numerical treatment of stochastic differential equations (1982); Gaines and Lyons, Variable step
    size control in the numerical solution of stochastic differential equations (1997).
    """

    order = 1.0
    error_order = 1.5  # type: ignore[assignment]
    nfe_per_step = 2
    calculi: ClassVar[frozenset[Calculus]] = frozenset({Calculus.STRATONOVICH})

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        f0, g0 = problem.evaluate(span.t0, y0), problem.diffuse(span.t0, y0)
        guess = torch.addcmul(y0, span.h, f0) + g0 * noise.w
        f1, g1 = problem.evaluate(span.t1, guess), problem.diffuse(span.t1, guess)
        middle = problem.diffuse(span.t0, (y0 + guess) / 2)
        drift, kick = span.h * (f0 + f1) / 2, (g0 + g1) / 2 * noise.w
        error = span.h * (f1 - f0) / 2 + ((g0 + g1) / 2 - middle) * noise.w
        return StochasticStep(y0 + drift + kick, error)
