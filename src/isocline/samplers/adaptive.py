"""Sampling by the probability-flow ODE with error control: every image takes the steps that it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.probability_flow import AbstractVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import in_state
from isocline.solvers.controller import PIDController
from isocline.solvers.loop import solve
from isocline.solvers.problem import ODEProblem
from isocline.solvers.solution import SaveAt, Solution, SolverError, Status
from isocline.solvers.stepper import AbstractStepper

__all__ = ["PICTURES", "AdaptiveSampler", "finished", "limited"]

PICTURES = 16
"""Steps between the states that are kept of a solve without a grid."""


class AdaptiveSampler(AbstractSampler):
    """Integrate the probability flow from t_max down to a tolerance, each sample by its own steps.

    An image's result does not depend on the batch that it is drawn in, up to the network's rounding; images that are
    done leave the batch (unless the controller is joint). The number of evaluations is an outcome, per sample in
    ``stats.nfe``, and a budget is a limit.

    Args:
        stepper: a method with an error estimate.
        controller: tolerances; ``rtol`` and ``atol`` are those of the variable's state. A joint one takes the same
            steps for the whole batch, which pays where samples are alike.
        variable: in which state and time the ODE is solved.
        wrap: what is put around the denoiser first (clipping, say).
    """

    def __init__(
        self,
        stepper: AbstractStepper,
        controller: PIDController,
        variable: AbstractVariable,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        self.stepper = stepper
        self.controller = controller
        self.variable = variable
        self.wrap = wrap

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate.

        Args:
            denoiser: network and process, possibly guided.
            x1: unit-variance noise ``(B, *event)``; generation starts from σ(t_max) x1.
            nfe: network forwards that one sample may use at most.
            cond: handed to the network.
            generator: unused (the flow is deterministic); accepted so that all samplers are called alike.
            save_steps: keep 17 states at equal distances of the variable's time, the start included.

        Returns:
            Solution in x and t: ``ts (K,)``, ``ys (K, B, *event)``; ``stats.nfe`` counts network forwards.

        Raises:
            ValueError: if the budget does not pay for one step.
            SolverError: if a sample needs more than the budget, or fails.
        """
        denoiser = denoiser if self.wrap is None else self.wrap(denoiser)
        process, variable = denoiser.process, self.variable
        start, end = variable.start(process), variable.end(process)
        s = torch.tensor(start, dtype=torch.float64)
        y1 = variable.from_state(process, s, process.prior(x1))
        problem = ODEProblem(variable.field(denoiser), y1, start, end, cond)
        times = torch.linspace(start, end, PICTURES + 1, dtype=torch.float64) if save_steps else None
        controller = limited(self.controller, self.stepper, nfe, denoiser.evaluations)
        solution = finished(solve(problem, self.stepper, controller, SaveAt(times)), nfe)
        return in_state(solution, process, variable, denoiser.evaluations)


def limited(
    controller: PIDController, stepper: AbstractStepper, nfe: int, evaluations: int, apart: int = 0
) -> PIDController:
    """Return the controller with the trial steps that a budget pays for.

    Args:
        controller: tolerances.
        stepper: the method; two calls are set aside for the first step's size.
        nfe: network forwards that one sample may use at most.
        evaluations: forwards per call of the field.
        apart: calls that are made besides.

    Raises:
        ValueError: if the budget does not pay for one step.
    """
    steps = (nfe // evaluations - stepper.init_nfe - 2 - apart) // stepper.nfe_per_step
    if steps < 1:
        raise ValueError(
            f"nfe={nfe} does not pay for one step of {type(stepper).__name__} with error control; an adaptive "
            "sampler's nfe is a limit: give it some hundreds"
        )
    return dataclasses.replace(controller, max_steps=min(steps, controller.max_steps))


def finished(solution: Solution, nfe: int) -> Solution:
    """Return the solution itself if every sample reached its end within the budget.

    Raises:
        SolverError: if one did not.
    """
    if bool((solution.status == int(Status.MAX_STEPS)).any()):
        raise SolverError(f"nfe={nfe} does not suffice for the tolerances; raise nfe, or rtol and atol")
    return solution.raise_on_failure()
