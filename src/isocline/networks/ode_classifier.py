"""A neural ordinary differential equation as a classifier: the residual part of the network, integrated by a solver."""

from __future__ import annotations

import copy

from torch import Tensor

from isocline.networks.classifier import AbstractClassifier, ConvolutionField
from isocline.solvers.controller import AbstractController
from isocline.solvers.gradient import AbstractGradient
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["ODEClassifier"]


class ODEClassifier(AbstractClassifier):
    """The hidden state solves ``dh/dt = F(t, h)`` from t = 0 to t = 1 with one field for all depths.

    With `Euler` and `ConstantSteps` it is a residual network whose blocks share their weights.

    Source: Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations (2018), section 3.

    Args:
        channels: image channels C.
        size: image edge in pixels, at least 8.
        classes: number of classes K.
        stepper: the method.
        controller: its steps: of a fixed number, or from tolerances, each sample with its own.
        gradient: how the solve is differentiated; None is backpropagation through its steps.
        width: channels D of the hidden state.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        stepper: AbstractStepper,
        controller: AbstractController,
        gradient: AbstractGradient | None = None,
        width: int = 16,
    ) -> None:
        super().__init__(channels, size, classes, width)
        self.field = ConvolutionField(width)
        self.stepper, self.controller, self.gradient = stepper, controller, gradient

    def with_solver(
        self,
        stepper: AbstractStepper | None = None,
        controller: AbstractController | None = None,
        gradient: AbstractGradient | None = None,
    ) -> ODEClassifier:
        """The same weights, not copied, under another solver; None leaves a part as it is."""
        other = copy.copy(self)
        other.stepper = stepper or self.stepper
        other.controller = controller or self.controller
        other.gradient = gradient or self.gradient
        return other

    def transform(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate.

        Raises:
            SolverError: if a sample does not reach t = 1.
        """
        problem = ODEProblem(self.field, h, 0.0, 1.0)
        solution = solve_strict(problem, self.stepper, self.controller, gradient=self.gradient)
        return solution.final, solution.stats.nfe
