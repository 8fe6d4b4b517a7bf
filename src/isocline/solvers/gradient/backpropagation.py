"""Gradients by backpropagation through the steps."""

from __future__ import annotations

from isocline.solvers.controller import AbstractController
from isocline.solvers.gradient.base import AbstractGradient, Integrate
from isocline.solvers.gradient.times import detach_times
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = ["Backpropagation"]


class Backpropagation(AbstractGradient):
    """Autograd through every operation of every step, at fixed step sizes.

    The exact gradient of the discrete solution, with derivatives of every order. Memory: all activations of all
    evaluations, rejected trial steps included.
    """

    def solve(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
    ) -> Solution:
        """Solve; see the base class."""
        problem, saveat, times = detach_times(problem, saveat)
        solution = integrate(problem, stepper, controller, saveat)
        return solution if times is None else times.attach(problem, solution)
