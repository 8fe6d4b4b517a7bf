"""Trajectories of a trained field from its start to its end, the same for every reading of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.flow_field import VARIABLE
from isocline.dynamics.trained_field import TrainedField
from isocline.processes.gaussian import GaussianProcess
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import Euler, Heun
from isocline.solvers.loop import solve
from isocline.solvers.problem import ODEProblem
from isocline.solvers.solution import SaveAt

__all__ = ["Paths", "clean_guess", "follow", "process_time"]


class Paths(NamedTuple):
    """Trajectories of a field.

    Attributes:
        ts: times of the field, ``(K,)`` float64.
        ys: states ``(K, B, *event)``.
        cond: condition of the states, or None.
    """

    ts: Tensor
    ys: Tensor
    cond: Tensor | None


@torch.no_grad()
def follow(field: TrainedField, count: int, steps: int, seed: int) -> Paths:
    """Integrate a field over its span: a network's depth layer by layer, others in even steps of Heun's method.

    Args:
        field: the field.
        count: trajectories.
        steps: of each; a network in depth takes as many as it has layers.
        seed: of the starts; trajectory i depends on it and i alone.

    Raises:
        SolverError: if a state is not finite.
    """
    cond = field.condition(count, seed)
    problem = ODEProblem(field.field, field.starts(count, seed), field.start, field.end, cond)
    layered = field.kind == "depth"
    stepper, number = (Euler(), round(field.end - field.start)) if layered else (Heun(), steps)
    solution = solve(problem, stepper, ConstantSteps(number), SaveAt(steps=True)).raise_on_failure()
    return Paths(solution.ts.double().reshape(len(solution.ys), -1)[:, 0], solution.ys, cond)


def process_time(process: GaussianProcess, position: Tensor) -> Tensor:
    """Return t of the process for times of the field of an image flow (`isocline.dynamics.flow_field.VARIABLE`)."""
    return VARIABLE.time(process, position)


@torch.no_grad()
def clean_guess(field: TrainedField, position: Tensor, y: Tensor, cond: Tensor | None) -> Tensor:
    """Return D(x_t, t), what the denoiser takes the clean data to be.

    Args:
        field: with a denoiser.
        position: time of the field, ``()``.
        y: state of the field, ``(B, *event)``.
        cond: condition or None.
    """
    assert field.denoiser is not None
    process = field.denoiser.process
    t = process_time(process, position).clamp(process.t_min, process.t_max)
    x = VARIABLE.to_state(process, position, y)
    return field.denoiser.data(t, x, cond)
