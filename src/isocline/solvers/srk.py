"""Stochastic Runge–Kutta methods of strong order 3/2: for additive noise, and for diagonal noise."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from isocline.solvers.brownian import BrownianIncrement
from isocline.solvers.problem import Calculus, SDEProblem
from isocline.solvers.sde import AbstractSDEStepper, Span, StochasticStep

__all__ = ["SRIW1", "ShARK"]


class ShARK(AbstractSDEStepper):
    """Shifted additive-noise Runge–Kutta method, strong order 3/2, for a diffusion that depends on t only.

    With W the increment and H the space-time Lévy area of the step::

        Y1 = y + g H,   Y2 = y + 5/6 f(t, Y1) Δt + g (5/6 W + H)
        y1 = y + (2/5 f(t, Y1) + 3/5 f(t + 5/6 Δt, Y2)) Δt + ∫ g dW,   ∫ g dW = (g(t) + g(t1))/2 W - (g(t1) - g(t)) H

    exact in the noise where g is linear in t. The error is the distance from the shifted Euler step
    ``y + f(t, Y1) Δt + g(t) W``, of order 3/2. For additive noise Itô and Stratonovich are the same. The state that the
    diffusion is called with is the start of the step; a diffusion that depends on it breaks the order.

    Source: Foster, dos Reis, Strange, High order splitting methods for SDEs satisfying a commutativity condition
    (2023), section 6.
    """

    order = 1.5
    error_order = 1.5  # type: ignore[assignment]
    nfe_per_step = 2
    calculi: ClassVar[frozenset[Calculus]] = frozenset(Calculus)
    needs_area: ClassVar[bool] = True

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        w, area = noise
        assert area is not None
        g0 = problem.diffuse(span.t0, y0)
        change = problem.diffuse(span.t1, y0) - g0
        shifted = y0 + g0 * area
        first = problem.evaluate(span.t0, shifted)
        second = problem.evaluate(span.at(5 / 6), shifted + 5 / 6 * (span.h * first + g0 * w))
        bend = change * (w / 2 - area)
        drift = span.h * (0.4 * first + 0.6 * second)
        return StochasticStep(y0 + drift + (g0 * w + bend), 0.6 * span.h * (second - first) + bend)


class SRIW1(AbstractSDEStepper):
    """Rößler's method for Itô equations with diagonal noise: strong order 3/2, weak order 2.

    Two evaluations of the drift and four of the diffusion. With ``I_11 = (W² - |Δt|)/2``, ``I_111 = (W³ - 3|Δt| W)/6``
    and ``I_10/|Δt| = W/2 + H``, the mean of the path over the step::

        y1 = y + Δt Σ α_i f(t + c_i Δt, F_i) + Σ (β1_i W + β2_i I_11/√|Δt| + β3_i I_10/|Δt| + β4_i I_111/|Δt|) g(·, G_i)

    The error is the distance from the method of order 1 that stops at β2 and the first slope of the drift.

    Source: Rößler, Runge–Kutta methods for the strong approximation of solutions of stochastic differential equations
    (2010), section 6; error after Rackauckas and Nie, Adaptive methods for stochastic differential
    equations via natural embeddings and rejection sampling with memory (2017).
    """

    order = 1.5
    error_order = 1.5  # type: ignore[assignment]
    nfe_per_step = 2
    calculi: ClassVar[frozenset[Calculus]] = frozenset({Calculus.ITO})
    needs_area: ClassVar[bool] = True

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        w, area = noise
        assert area is not None

        def diffusion(share: float, state: Tensor) -> Tensor:
            return problem.diffuse(span.at(share), state)

        h, size = span.h, span.size
        # Samples that are done take empty steps: their stages must stay where the state is, hence no `size` here.
        root = h.abs().sqrt()
        double, mean, triple = (w * w - size) / (2 * size.sqrt()), w / 2 + area, w * (w * w - 3 * size) / (6 * size)
        f1, g1 = problem.evaluate(span.t0, y0), diffusion(0, y0)
        f2 = problem.evaluate(span.at(0.75), y0 + 0.75 * h * f1 + 1.5 * mean * g1)
        g2 = diffusion(0.25, y0 + 0.25 * h * f1 + 0.5 * root * g1)
        g3 = diffusion(1, y0 + h * f1 - root * g1)
        g4 = diffusion(0.25, y0 + 0.25 * h * f1 + root * (-5 * g1 + 3 * g2 + 0.5 * g3))
        low = (-g1 + (4 * g2 + 2 * g3) / 3) * w + (-g1 + (4 * g2 - g3) / 3) * double
        high = (2 * g1 - (4 * g2 + 2 * g3) / 3) * mean + (-2 * g1 + (5 * g2 - 2 * g3) / 3 + g4) * triple
        error = 2 / 3 * h * (f2 - f1) + high
        return StochasticStep(y0 + h * f1 + low + error, error)
