"""Milstein's step for diagonal noise, with and without derivatives: strong order 1."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from isocline.solvers.brownian import BrownianIncrement
from isocline.solvers.problem import Calculus, SDEProblem
from isocline.solvers.sde import AbstractSDEStepper, Span, StochasticStep, noise_derivative

__all__ = ["DerivativeFreeMilstein", "Milstein"]


class Milstein(AbstractSDEStepper):
    """``y1 = y + f Δt + g ΔW + g ∂g/∂y (ΔW² - |Δt|)/2``; for a Stratonovich problem without the ``|Δt|``.

    Strong order 1 for diagonal noise, weak order 1. The diffusion is evaluated once, on dual numbers.

    Source: Milstein (1974); Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, section 10.3.
    """

    order = 1.0
    nfe_per_step = 1
    calculi: ClassVar[frozenset[Calculus]] = frozenset(Calculus)

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        g, derivative = noise_derivative(problem.diffusion, span.t0, y0, problem.cond)
        square = noise.w * noise.w
        double = (square - span.h.abs() if problem.calculus is Calculus.ITO else square) / 2
        y1 = torch.addcmul(y0, span.h, problem.evaluate(span.t0, y0))
        return StochasticStep(y1 + g * noise.w + derivative * double)


class DerivativeFreeMilstein(AbstractSDEStepper):
    """Milstein's step with ``g ∂g/∂y`` replaced by ``(g(t, y + f Δt + g √|Δt|) - g(t, y)) / √|Δt|``.

    For diffusions that forward-mode differentiation cannot pass. Strong order 1 for diagonal noise. Itô only: the
    quotient is off by ``O(√|Δt|)``, which ``ΔW²`` without the ``|Δt|`` would turn into a drift of order 1/2.

    Source: Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, section 11.1.
    """

    order = 1.0
    nfe_per_step = 1
    calculi: ClassVar[frozenset[Calculus]] = frozenset({Calculus.ITO})

    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """See the base class."""
        g = problem.diffuse(span.t0, y0)
        drifted = torch.addcmul(y0, span.h, problem.evaluate(span.t0, y0))
        probe = problem.diffuse(span.t0, drifted + g * span.h.abs().sqrt())
        derivative = (probe - g) / span.size.sqrt()
        return StochasticStep(drifted + g * noise.w + derivative * (noise.w * noise.w - span.h.abs()) / 2)
