"""Sampling of tokens that notices a network which fails: tokens have no NaN of their own to tell of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.controller import ConstantSteps
from isocline.solvers.loop import solve
from isocline.solvers.problem import AbstractProblem, MarkovProblem, VectorField
from isocline.solvers.solution import SaveAt, Solution, Status
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["WatchedLaw", "WatchedStepper", "no_law", "non_finite", "sample_chain"]


def no_law(probs: Tensor) -> Tensor:
    """Mark the sequences of ``probs`` ``(B, ..., V)`` with a law that is none: not finite, or nowhere positive."""
    total = probs.sum(-1).reshape(len(probs), -1)
    return ~(total.isfinite() & (total > 0)).all(-1)


def non_finite(solution: Solution) -> Solution:
    """The same with status `Status.NON_FINITE` where a step had failed, for steps that fail by their law alone."""
    failed = solution.status == int(Status.STEP_FAILED)
    return dataclasses.replace(solution, status=torch.where(failed, int(Status.NON_FINITE), solution.status))


class WatchedLaw:
    """Wrap a law of tokens: remember the sequences for which it was no law.

    Args:
        law: ``law(t, z, cond) -> (B, L, V)`` probabilities.
        batch: number of sequences.
        device: of the tokens.

    Attributes:
        failed: sequences for which it was none so far, bool ``(batch,)``.
    """

    def __init__(self, law: VectorField, batch: int, device: torch.device) -> None:
        self.law = law
        self.failed = torch.zeros(batch, dtype=torch.bool, device=device)

    def __call__(self, t: Tensor, z: Tensor, cond: Any) -> Tensor:
        """Evaluate for the sequences ``rows``; ``cond`` is the pair of them and of what the law is handed."""
        rows, given = cond
        probs = self.law(t, z, given)
        self.failed[rows] |= no_law(probs)
        return probs


@dataclass(frozen=True)
class WatchedStepper(AbstractStepper):
    """Wrap a stepper on tokens: a step that met no law has failed, for the sequences that met it.

    Attributes:
        inner: the stepper.
        law: the law that its problem asks.
    """

    inner: AbstractStepper
    law: WatchedLaw

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """The inner stepper's carry."""
        return self.inner.init(problem, t0, y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One inner step, and what the law has said since the start; the loop keeps the first failure."""
        result = self.inner.step(problem, t0, t1, y0, carry)
        failed = self.law.failed.clone() if result.failed is None else self.law.failed | result.failed
        return result._replace(failed=failed)


def sample_chain(
    law: VectorField,
    start: Tensor,
    stepper: AbstractStepper,
    steps: int,
    generator: torch.Generator,
    cond: Any = None,
    save_steps: bool = False,
) -> Solution:
    """Take steps of a sampler from t = 1 to 0.

    Args:
        law: the law of clean tokens that the stepper is driven by.
        start: tokens at t = 1, ``(B, L)``.
        stepper: the stepper.
        steps: of a uniform grid.
        generator: source of every draw.
        cond: handed to the law; tensors in it lead with B.
        save_steps: keep every state, the start included.

    Returns:
        Solution; a sequence for which the network returned no law has the status `Status.NON_FINITE`, and tokens
        without a meaning. The others do not notice.
    """
    watched = WatchedLaw(law, len(start), start.device)
    rows = torch.arange(len(start), device=start.device)
    problem = MarkovProblem(watched, start, 1.0, 0.0, (rows, cond), generator=generator, is_separable=True)
    solution = solve(problem, WatchedStepper(stepper, watched), ConstantSteps(steps), SaveAt(steps=save_steps))
    met = watched.failed & (solution.status == int(Status.STEP_FAILED))
    return dataclasses.replace(solution, status=torch.where(met, int(Status.NON_FINITE), solution.status))
