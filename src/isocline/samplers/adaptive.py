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

__all__ = ["AdaptiveSampler"]

_PICTURES = 16


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
        times = torch.linspace(start, end, _PICTURES + 1, dtype=torch.float64) if save_steps else None
        controller = self._within(nfe, denoiser.evaluations)
        solution = solve(problem, self.stepper, controller, SaveAt(times))
        if bool((solution.status == int(Status.MAX_STEPS)).any()):
            raise SolverError(f"nfe={nfe} does not suffice for the tolerances; raise nfe, or rtol and atol")
        return in_state(solution.raise_on_failure(), process, variable, denoiser.evaluations)

    def _within(self, nfe: int, evaluations: int) -> PIDController:
        """The controller with the trial steps that the budget pays for, beside two calls for the first step's size."""
        steps = (nfe // evaluations - self.stepper.init_nfe - 2) // self.stepper.nfe_per_step
        if steps < 1:
            raise ValueError(
                f"nfe={nfe} does not pay for one step of {type(self.stepper).__name__} with error control; an adaptive "
                "sampler's nfe is a limit: give it some hundreds"
            )
        return dataclasses.replace(self.controller, max_steps=min(steps, self.controller.max_steps))
