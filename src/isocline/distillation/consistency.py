"""Consistency distillation: one network call maps any point of the teacher's flow to the flow's end."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Distiller, Loss
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.prediction import DataPrediction
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable
from isocline.solvers.explicit import Euler
from isocline.solvers.problem import ODEProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractCurriculum", "ConsistencyDistillation", "ConstantCurriculum", "DoublingCurriculum", "pseudo_huber"]


class AbstractCurriculum(ABC):
    """``curriculum(step) -> N``: in how many intervals the flow is cut after so many optimiser steps."""

    @abstractmethod
    def __call__(self, step: int) -> int:
        """Return N ≥ 1."""


class ConstantCurriculum(AbstractCurriculum):
    """The same number of intervals throughout.

    Args:
        intervals: N.

    Raises:
        ValueError: if it is below 1.
    """

    def __init__(self, intervals: int = 18) -> None:
        if intervals < 1:
            raise ValueError(f"intervals={intervals} must be at least 1")
        self.intervals = intervals

    def __call__(self, step: int) -> int:
        """Return N."""
        return self.intervals


class DoublingCurriculum(AbstractCurriculum):
    """N(k) = min(first · 2^⌊k/K'⌋, last), K' = ⌊steps / (⌊log₂(last/first)⌋ + 1)⌋.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, §3.4.

    Args:
        first: intervals at step 0.
        last: intervals at the end.
        steps: optimiser steps of the whole run.

    Raises:
        ValueError: unless 1 <= first <= last and steps >= 1.
    """

    def __init__(self, first: int = 8, last: int = 64, steps: int = 1000) -> None:
        if not (1 <= first <= last and steps >= 1):
            raise ValueError(f"first={first}, last={last}, steps={steps} must satisfy 1 <= first <= last, steps >= 1")
        self.first, self.last = first, last
        self.period = max(1, steps // (int(math.log2(last / first)) + 1))

    def __call__(self, step: int) -> int:
        """Return N(step)."""
        # The exponent is bounded so that a long run does not build a huge integer.
        return min(self.first * 2 ** min(step // self.period, 30), self.last)


def pseudo_huber(difference: Tensor, c: float) -> Tensor:
    """Return √(‖δ‖²/d + c²) − c per sample, ``(B,)``, for ``(B, *event)``.

    It is iCT's √(‖δ‖² + C²) − C divided by √d, with C = c √d and c = 0.00054 there.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, Eq. 8.
    """
    return (difference.square().flatten(1).mean(1) + c * c).sqrt() - c


class ConsistencyDistillation(Distiller):
    """d(f_θ(x_t, t), f_θ⁻(x̂_s, s)) at neighbouring times s < t, x̂_s one teacher step from x_t.

    f(x, t) is the process's data prediction of the network: with a noise, score, v or velocity prediction it equals x
    exactly where σ = 0, so the boundary condition holds by construction. θ⁻ is the student's exponential moving
    average (the student itself, stopped, for ``target_decay=0``), kept here, so that a resumed run goes on with it.

    The pairs of times are neighbours of ``grid`` with N(k) intervals, each interval equally likely and drawn by
    stratification; the last one ends at t = 0 exactly, where the target is the teacher's x̂_0 itself.

    Source: *Consistency Models*, Song et al., 2023, Algorithm 2; pseudo-Huber distance and curriculum from *Improved
    Techniques for Training Consistency Models*, Song & Dhariwal, 2024.

    Args:
        process: the teacher's.
        teacher: frozen network; the target starts from its weights, the student should too.
        stepper: the teacher's step: Euler (one teacher call) or a two-stage method.
        variable: in which the step is taken; it must end at t = 0.
        grid: the neighbouring times.
        curriculum: N(k).
        target_decay: decay of the target's average, in [0, 1).
        huber: c of the pseudo-Huber distance.

    Raises:
        ValueError: if the boundary condition cannot hold, or an argument is out of range.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        stepper: AbstractStepper | None = None,
        variable: AbstractVariable | None = None,
        grid: AbstractTimeGrid | None = None,
        curriculum: AbstractCurriculum | None = None,
        target_decay: float = 0.95,
        huber: float = 0.00054,
    ) -> None:
        super().__init__(teacher)
        if not 0 <= target_decay < 1:
            raise ValueError(f"target_decay={target_decay} must be in [0, 1)")
        self.process = process
        self.stepper = Euler() if stepper is None else stepper
        self.variable = LinearPathVariable() if variable is None else variable
        self.grid = UniformTimeGrid() if grid is None else grid
        self.curriculum = DoublingCurriculum() if curriculum is None else curriculum
        self.target_decay = target_decay
        self.huber = huber
        self.step = 0
        self.target = copy.deepcopy(teacher).requires_grad_(False)
        self._check_boundary()

    def _check_boundary(self) -> None:
        if isinstance(self.process.prediction, DataPrediction):
            raise ValueError("a network that predicts data need not return x at t = 0; use a noise or v prediction")
        if float(self.process.schedule(0.0).sigma) > 0:
            name = type(self.process.schedule).__name__
            raise ValueError(f"{name} has σ(0) > 0, so f(x, 0) = x cannot hold; use a schedule with σ(0) = 0")
        if self.variable.end(self.process) > 0:
            raise ValueError(
                f"{type(self.variable).__name__} ends at t_min={self.process.t_min}, not at t = 0; "
                "use LinearPathVariable"
            )

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss on ``batch.x0 (B, *event)``; the logged term ``intervals`` is N(k)."""
        x0, process, variable = batch.x0, self.process, self.variable
        intervals = self.curriculum(self.step)
        positions = self.grid(process, variable, intervals).to(x0.device)
        index = self._draw_intervals(x0.shape[0], intervals, generator)
        high, low = positions[index], positions[index + 1]
        t_high, t_low = variable.time(process, high), variable.time(process, low)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        x_high = process.mix(x0, noise, process.schedule(t_high))
        with torch.no_grad():
            x_low = self._teacher_step(x_high, high, low, batch.cond)
            wanted = self._consistency(self._target(network), t_low, x_low, batch.cond)
        found = self._consistency(network, t_high, x_high, batch.cond)
        total = pseudo_huber(found - wanted, self.huber).mean()
        with torch.no_grad():
            mse = (found - wanted).square().mean()
        return Loss(total, {"mse": mse, "intervals": torch.tensor(float(intervals))})

    @staticmethod
    def _draw_intervals(batch: int, intervals: int, generator: torch.Generator) -> Tensor:
        offset = torch.rand(1, generator=generator, dtype=torch.float64, device=generator.device)
        lattice = torch.arange(batch, dtype=torch.float64, device=generator.device) / batch
        return ((offset + lattice).remainder(1.0) * intervals).long().clamp(max=intervals - 1)

    def _teacher_step(self, x: Tensor, high: Tensor, low: Tensor, cond: Any) -> Tensor:
        """One step of the teacher's flow from positions ``high`` to ``low``, both ``(B,)``."""
        process, variable = self.process, self.variable
        field = variable.field(Denoiser(self.teacher, process))
        y = variable.from_state(process, high, x)
        problem = ODEProblem(field, y, high, low, cond)
        result = self.stepper.step(problem, high, low, y, self.stepper.init(problem, high, y))
        return variable.to_state(process, low, result.y1)

    def _consistency(self, network: nn.Module, t: Tensor, x: Tensor, cond: Any) -> Tensor:
        return Denoiser(network, self.process).data(t, x, cond)

    def _target(self, network: nn.Module) -> nn.Module:
        return network if self.target_decay == 0 else self.target

    @torch.no_grad()
    def after_step(self, network: nn.Module, step: int) -> None:
        """Move the target towards the student (its buffers are copied) and the curriculum on."""
        self.step = step
        if self.target_decay == 0:
            return
        for average, current in zip(self.target.parameters(), network.parameters(), strict=True):
            average.lerp_(current.to(average.dtype), 1 - self.target_decay)
        for kept, new in zip(self.target.buffers(), network.buffers(), strict=True):
            kept.copy_(new)

    def get_extra_state(self) -> Tensor:
        """Return the step, so that the curriculum survives a resume."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the step."""
        self.step = int(state)
