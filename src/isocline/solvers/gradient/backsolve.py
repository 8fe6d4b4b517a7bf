"""The continuous adjoint in constant memory: states are found again by solving the equation backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractController, AbstractGrid, PIDController, root_mean_square
from isocline.solvers.gradient.adjoint import AbstractAdjointSystem, way_back
from isocline.solvers.gradient.augmented import AugmentedReverse
from isocline.solvers.gradient.base import AbstractAdjoint, AbstractReverse, Forward, Integrate
from isocline.solvers.gradient.continuous import BackwardSolver, ContinuousReverse
from isocline.solvers.gradient.inputs import Inputs, detached_problem
from isocline.solvers.gradient.stops import Stops
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt
from isocline.solvers.stepper import AbstractStepper

__all__ = ["BacksolveAdjoint"]


class BacksolveAdjoint(AbstractAdjoint):
    """The continuous adjoint, solved backward together with the state: memory does not grow with the number of steps.

    State and cotangent of every sample, each with its own clock, are solved back from save time to save time, where the
    state is taken from the forward solve; the parameters' part is a quadrature over the accepted steps (see
    `isocline.solvers.gradient.adjoint.ParameterQuadrature`) and takes no part in the error norm. It is the gradient of
    the exact solution, up to the tolerances of the way back, and not that of the discrete one.

    The state cannot be found again where the equation contracts: forward, errors vanish, and backward they grow by
    ``exp(∫ |λ| dt)``. Then the gradient is wrong by any factor, and there is an `AdjointWarning`.

    Source: Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations (2018), algorithm 1; seminorm:
    Kidger, Chen, Lyons, "Hey, that's not an ODE" (2021).
    """

    def __init__(
        self,
        stepper: AbstractStepper | None = None,
        controller: AbstractController | None = None,
        seminorm: bool = True,
        check: bool = True,
        *,
        tolerance: float = 0.01,
        parameters: Sequence[Tensor] | None = None,
    ) -> None:
        """Choose the way back.

        Args:
            stepper: of the way back; by default the forward one, or Tsit5 if that is for special equations only.
            controller: of the way back; by default the forward one, of a grid the same points.
            seminorm: whether parameters stay out of the error norm. False solves state, cotangent and parameters of the
                whole batch as one system under the largest of their norms, as in the article.
            check: whether to compare states that were found again with those known.
            tolerance: relative error of these states above which there is a warning.
            parameters: as for `isocline.solvers.gradient.DiscreteAdjoint`.
        """
        self.stepper, self.controller, self.seminorm = stepper, controller, seminorm
        self.tolerance = tolerance if check else float("inf")
        self.parameters = parameters

    def forward(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
        inputs: Inputs,
    ) -> Forward:
        """Solve, keeping the saved states only; see the base class."""
        constant = detached_problem(problem)
        solution = integrate(constant, stepper, controller, saveat)
        stops = Stops.of(constant, controller, saveat, solution)
        control = self.controller
        if control is None and not isinstance(controller, AbstractGrid):
            control = controller
        solver = BackwardSolver(way_back(problem, stepper, self.stepper), control, integrate)
        reverse: AbstractReverse
        if self.seminorm:
            solver = dataclasses.replace(solver, controller=_for_pairs(control))
            reverse = ContinuousReverse(_Backsolve(constant), inputs, stops, solution.ys, solver, self.tolerance)
        else:
            reverse = AugmentedReverse(constant, inputs, stops, solution.ys, solver, self.tolerance)
        return Forward(solution, reverse)


class _Backsolve(AbstractAdjointSystem):
    """State and cotangent, stacked in front of the event axes."""

    def begin(self, y: Tensor, a: Tensor) -> Tensor:
        return torch.stack([y, a], 1)

    def split(self, t: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return z[:, 0], z[:, 1]

    def join(self, slope: Tensor, product: Tensor) -> Tensor:
        return torch.stack([slope, -product], 1)


def _for_pairs(controller: AbstractController | None) -> AbstractController | None:
    """A norm of states becomes the larger of the norms of state and cotangent."""
    if not isinstance(controller, PIDController) or controller.norm is root_mean_square:
        return controller
    norm = controller.norm
    return dataclasses.replace(controller, norm=lambda error: torch.maximum(norm(error[:, 0]), norm(error[:, 1])))
