"""A few steps along a teacher's flow, from one time of each sample to another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.probability_flow import AbstractVariable
from isocline.solvers.problem import ODEProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["follow_flow"]


def follow_flow(
    denoiser: AbstractDenoiser,
    variable: AbstractVariable,
    stepper: AbstractStepper,
    y: Tensor,
    start: Tensor,
    end: Tensor,
    cond: Any,
    steps: int = 1,
) -> Tensor:
    """Return the state at ``end`` after equal steps of the probability flow.

    Args:
        denoiser: the teacher under its process, possibly guided.
        variable: in which the steps are taken.
        stepper: the method.
        y: states of the variable ``(B, *event)``.
        start: positions of y, ``(B,)`` float64.
        end: positions to reach, likewise.
        cond: condition or None.
        steps: how many.
    """
    problem = ODEProblem(variable.field(denoiser), y, start, end, cond)
    here, carry = start, stepper.init(problem, start, y)
    for step in range(1, steps + 1):
        # The end itself, to the last bit.
        there = end if step == steps else start + (end - start) * (step / steps)
        result = stepper.step(problem, here, there, y, carry)
        y, carry, here = result.y1, result.carry, there
    return y
