"""What the loop did, step by step, for gradients that repeat or invert it afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractTape", "Saved", "StepRecord"]


@dataclass(frozen=True, slots=True)
class Saved:
    """States that were kept from one step.

    Attributes:
        save: places in ``Solution.ys``, int64, shape (m,).
        local: samples of the step they belong to, int64, shape (m,); None where the whole batch was kept (then m = 1).
        theta: share of the step after its start, float64, shape (m,), or () where ``local`` is None; 1 is the end,
            whose state is ``y1`` itself and not the interpolant's.
    """

    save: Tensor
    local: Tensor | None
    theta: Tensor


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One accepted step of some samples; n of them were in the batch, all tensors detached.

    Attributes:
        problem: the equation for these n samples.
        rows: their places in the full batch, int64, shape (n,); None if they are the full batch in order.
        t0: start, float64, shape () or (n,).
        t1: end.
        y0: states at the start, shape (n, *event).
        carry: the stepper's, at the start.
        accept: which of them took the step, bool, shape (n,); None if all did.
        saved: states kept from this step, in order.
        dense: states within the step, or None; holds the step's stages, so keep it only if it is needed.
    """

    problem: AbstractProblem
    rows: Tensor | None
    t0: Tensor
    t1: Tensor
    y0: Tensor
    carry: Any
    accept: Tensor | None
    saved: tuple[Saved, ...]
    dense: AbstractInterpolant | None


class AbstractTape(ABC):
    """Listens to one solve."""

    @abstractmethod
    def start(self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, saved: tuple[Saved, ...]) -> None:
        """The solve begins at ``t0`` (shape () or (B,)); ``saved`` are the states kept there, with theta 0."""

    @abstractmethod
    def step(self, record: StepRecord) -> None:
        """Samples took a step."""
