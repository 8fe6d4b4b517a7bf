"""Sampling by the probability-flow ODE: a variable, a stepper and a grid, on the one solver loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.processes.probability_flow import AbstractVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler, affordable
from isocline.samplers.tabulated import tabulated_variable
from isocline.solvers.controller import FixedGrid
from isocline.solvers.explicit import Euler
from isocline.solvers.loop import solve
from isocline.solvers.problem import ODEProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = ["ContinuousSampler", "Plan", "in_state", "integrate"]


class Plan(NamedTuple):
    """What a budget buys: ``steps`` steps of ``stepper``."""

    stepper: AbstractStepper
    steps: int


class ContinuousSampler(AbstractSampler):
    """Integrate the probability flow from t_max down, in at most ``nfe`` network forwards a sample.

    Euler in `NoiseRatioVariable` is DDIM, Heun there with `PowerGrid` is EDM's deterministic sampler except that its
    last step stays a Heun step; Euler in `TimeVariable` on the linear path is the usual flow-matching sampler. Where
    the last step ends is the variable's choice and documented there.

    Args:
        stepper: an explicit method of `isocline.solvers`.
        grid: where the steps lie.
        variable: in which state and time the ODE is solved.
        wrap: what is put around the denoiser first (clipping, say).
    """

    grid: AbstractTimeGrid

    def __init__(
        self,
        stepper: AbstractStepper,
        grid: AbstractTimeGrid,
        variable: AbstractVariable,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        self.stepper = stepper
        self.grid = grid
        self.variable = variable
        self.wrap = wrap

    def plan(self, nfe: int, evaluations: int = 1) -> Plan:
        """Return the stepper and number of steps that fit a budget.

        A budget that does not pay for one step of the stepper (Heun with 1) buys Euler steps instead.

        Args:
            nfe: network forwards allowed per sample.
            evaluations: forwards per call of the field (2 under classifier-free guidance).

        Raises:
            ValueError: if the budget does not pay for one call.
        """
        calls = affordable(nfe, evaluations)
        steps = (calls - self.stepper.init_nfe) // self.stepper.nfe_per_step
        while steps >= 1 and self.stepper.evaluations(steps) > calls:
            steps -= 1
        return Plan(self.stepper, steps) if steps >= 1 else Plan(Euler(), calls)

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
            nfe: network forwards allowed per sample.
            cond: handed to the network.
            generator: unused (the flow is deterministic); accepted so that all samplers are called alike.
            save_steps: keep every grid point, the start included, instead of the end alone.

        Returns:
            Solution in x and t: ``ts (K,)``, ``ys (K, B, *event)``; ``stats.nfe`` counts network forwards.

        Raises:
            ValueError: if the budget is too small, or the variable is not defined at t_max.
        """
        denoiser = denoiser if self.wrap is None else self.wrap(denoiser)
        plan = self.plan(nfe, denoiser.evaluations)
        positions = self.grid(denoiser.process, self.variable, plan.steps)
        return integrate(denoiser, x1, plan.stepper, self.variable, positions, cond, save_steps)


def integrate(
    denoiser: AbstractDenoiser,
    x1: Tensor,
    stepper: AbstractStepper,
    variable: AbstractVariable,
    positions: Tensor,
    cond: Any,
    save_steps: bool,
) -> Solution:
    """Solve the flow from noise over a grid.

    Args:
        denoiser: network and process.
        x1: unit-variance noise ``(B, *event)``.
        stepper: the method.
        variable: in which state and time it works.
        positions: of the variable, from generation's start to its end.
        cond: handed to the network.
        save_steps: keep every grid point instead of the end alone.

    Returns:
        Solution in x and t; ``stats.nfe`` counts network forwards.
    """
    process, variable = denoiser.process, tabulated_variable(variable)
    y1 = variable.from_state(process, positions[0], process.prior(x1))
    problem = ODEProblem(variable.field(denoiser), y1, float(positions[0]), float(positions[-1]), cond)
    solution = solve(problem, stepper, FixedGrid(positions), SaveAt(steps=save_steps))
    return in_state(solution, process, variable, denoiser.evaluations)


def in_state(solution: Solution, process: GaussianProcess, variable: AbstractVariable, evaluations: int) -> Solution:
    """Translate a solution from the variable's (s, y) to (t, x) and count forwards instead of calls."""
    states = [variable.to_state(process, s, y) for s, y in zip(solution.ts, solution.ys, strict=True)]
    return dataclasses.replace(
        solution,
        ts=variable.time(process, solution.ts),
        ys=torch.stack(states) if len(states) > 1 else states[0][None],
        stats=dataclasses.replace(solution.stats, nfe=solution.stats.nfe * evaluations),
        stopped_at=variable.time(process, solution.stopped_at),
    )
