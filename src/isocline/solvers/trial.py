"""A trial step of samples that each have their own clock; no host synchronisation, so that it can be compiled."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.rows import merge_rows
from isocline.solvers.solution import Status
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["Block", "Clocks", "Trial", "merged", "raised", "stuck", "try_step"]

_ULP = 4 * torch.finfo(torch.float64).eps
_TINY = 1e-300


class Clocks(NamedTuple):
    """The samples in the batch; every tensor leads with their number n, times are float64.

    Attributes:
        t: where each is.
        t1: where each is going; a sample that is done stays where it is.
        size: next trial step, with the sign of the direction of integration.
        y: states, shape (n, *event).
        carry: of the stepper.
        memory: of the controller.
        alive: which still run, bool.
    """

    t: Tensor
    t1: Tensor
    size: Tensor
    y: Tensor
    carry: Any
    memory: Tensor | None
    alive: Tensor


class Trial(NamedTuple):
    """A trial step of every sample, judged but not yet taken.

    Attributes:
        target: where it leads.
        tried: its length, signed.
        size: the step to try next, signed.
        result: the step.
        accept: which samples may take it; of no meaning where a sample is done.
        memory: of the controller, where it is taken.
        log_norm: logarithm of the error's norm up to a constant; not finite where the step was not, or was not valid.
        last: where the step leads to its stop, and where a sample is done.
        moved: the clocks after it, if they were merged already; then, ``accept`` is False where a sample is done.
    """

    target: Tensor
    tried: Tensor
    size: Tensor
    result: StepResult
    accept: Tensor
    memory: Tensor | None
    log_norm: Tensor
    last: Tensor
    moved: Clocks | None = None

    @property
    def finite(self) -> Tensor:
        """Where the step was finite and valid, bool, shape (n,)."""
        return self.log_norm < torch.inf


class Block(NamedTuple):
    """Several trial steps of every sample, each taken where it was accepted.

    Attributes:
        moved: the clocks after them.
        tallies: trial steps, those accepted, and the status of samples that failed; int64, shape (3, n).
        ended: how many samples ended, and how many of these failed; shape (2,).
        work: evaluations, Jacobians and factorizations: ints for one step, or totals of the samples, shape (n,).
    """

    moved: Clocks
    tallies: Tensor
    ended: Tensor
    work: tuple[int | Tensor, ...]


def try_step(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    now: Clocks,
    stop: Tensor,
) -> Trial:
    """Try a step of every sample, up to ``stop`` at most."""
    # A step that all but reaches the end reaches it: no sliver is left over, and t1 is hit exactly. A sample that is
    # done has no way left and takes a step of length zero.
    last = (stop - now.t).div_(now.size).le(1 + 1e-10)
    target = torch.where(last, stop, now.t + now.size)
    result = stepper.step(problem, now.t, target, now.y, now.carry)
    assert result.error is not None
    assert stepper.error_order is not None
    order = stepper.error_order if result.error_order is None else result.error_order
    error, y0, y1 = result.error, now.y, result.y1
    if y1.requires_grad:
        error, y0, y1 = error.detach(), y0.detach(), y1.detach()
    accept, factor, memory, log_norm = controller.decide(error, y0, y1, now.memory, order)
    if result.failed is not None:
        accept = accept & ~result.failed
        log_norm = torch.where(result.failed, torch.inf, log_norm)
        factor = torch.where(result.failed, controller.factor_min, factor)
    tried = target - now.t
    size = tried * factor
    if controller.dt_max < torch.inf:
        size = size.clamp_(-controller.dt_max, controller.dt_max)
    return Trial(target, tried, size, result, accept, memory, log_norm, last)


def merged(trial: Trial, now: Clocks, dt_min: float | None) -> Trial:
    """The trial, with the clocks after it: moved where it is accepted, ended where a span ends.

    Steps are raised to the smallest one, unless ``dt_min`` is None because none can be that small.
    """
    result, accept = trial.result, trial.accept & now.alive
    new, old = (trial.target, result.y1, result.carry, trial.memory), (now.t, now.y, now.carry, now.memory)
    t, y, carry, memory = merge_rows(accept, new, old)
    ends = accept & (trial.target == now.t1)
    size = trial.size if dt_min is None else raised(trial.size, accept, now, dt_min)
    moved = Clocks(t, now.t1, size, y, carry, memory, torch.gt(now.alive, ends))
    return trial._replace(accept=accept, moved=moved)


def smallest_step(t: Tensor, dt_min: float) -> Tensor:
    """The least length of a step: ``dt_min``, and some units of rounding of ``t``, lest a step leads nowhere."""
    return t.abs().mul_(_ULP).clamp_(min=max(dt_min, _TINY))


def rounds_to_smallest(now: Clocks, dt_min: float, factor_min: float) -> int:
    """For how many rounds no step comes down to the smallest, each being ``factor_min`` of the one before or more.

    A step that is cut short by the end of its span and then rejected may come down sooner, and is found out later.
    """
    floor = smallest_step(torch.maximum(now.t.abs(), now.t1.abs()), dt_min)
    room = torch.where(now.alive, now.size.abs() / floor, torch.inf).min()
    return int(math.log(min(max(float(room), 1.0), 1e300)) / -math.log(factor_min))


def stuck(trial: Trial, accept: Tensor, before: Clocks, alive: Tensor, dt_min: float) -> tuple[Tensor, Tensor]:
    """Which samples were rejected at the smallest step, or have shrunk theirs to nothing; and the status this means."""
    # The step asked for counts, not only the one taken: t + dt rounds, possibly to a little more than the floor.
    length = torch.minimum(trial.tried.abs(), before.size.abs())
    where = alive & (length <= smallest_step(before.t, dt_min)) & ~(accept & (length > 0))
    reason = torch.where(trial.finite, int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE))
    if trial.result.failed is not None:
        reason = torch.where(trial.result.failed, int(Status.STEP_FAILED), reason)
    return where, reason


def raised(size: Tensor, accept: Tensor, now: Clocks, dt_min: float) -> Tensor:
    """Steps to try next: after a rejection, not below the smallest."""
    floor = smallest_step(now.t, dt_min)
    low = torch.gt(size.abs() < floor, accept)
    return torch.where(low, torch.copysign(floor, now.size), size)
