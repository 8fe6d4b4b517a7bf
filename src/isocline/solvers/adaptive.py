"""The loop's body under adaptive control: every sample has its own time, step and fate."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.problem import AbstractProblem, Time
from isocline.solvers.rows import merge_rows, select_rows
from isocline.solvers.saving import SampleRecorder
from isocline.solvers.solution import SaveAt, Solution, Statistics, Status
from isocline.solvers.stepper import AbstractStepper

__all__ = ["solve_adaptive"]

_RUNNING = -1


@dataclasses.dataclass(frozen=True, slots=True)
class _Samples:
    """The samples still in the batch; every tensor leads with their number n.

    Attributes:
        rows: their places in the full batch.
        t: where each is; float64, like every time here.
        t1: where each is going.
        dt: next trial step, signed.
        y: states.
        carry: of the stepper.
        memory: of the controller.
        nfe: evaluations so far.
        accepted: steps taken.
        rejected: steps thrown away.
        code: `Status`, or -1 for those that still run.
    """

    rows: Tensor
    t: Tensor
    t1: Tensor
    dt: Tensor
    y: Tensor
    carry: Any
    memory: Tensor
    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    code: Tensor

    def keep(self, places: Tensor) -> _Samples:
        """Only the samples at ``places``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _Samples(**{name: select_rows(value, places) for name, value in values.items()})


class _Tally:
    """Final statistics of all samples."""

    def __init__(self, y0: Tensor) -> None:
        zero = torch.zeros(len(y0), dtype=torch.int64, device=y0.device)
        self.nfe, self.accepted, self.rejected, self.status = (zero.clone() for _ in range(4))
        self.stopped = torch.zeros(len(y0), dtype=torch.float64, device=y0.device)

    def note(self, samples: _Samples) -> None:
        """Write down samples that are done."""
        rows = samples.rows
        self.nfe[rows], self.accepted[rows], self.rejected[rows] = samples.nfe, samples.accepted, samples.rejected
        self.status[rows], self.stopped[rows] = samples.code, samples.t


def solve_adaptive(
    problem: AbstractProblem, stepper: AbstractStepper, controller: AbstractAdaptiveController, saveat: SaveAt
) -> Solution:
    """Integrate with per-sample steps; see `isocline.solvers.solve`."""
    if stepper.error_order is None:
        raise ValueError(
            f"{type(stepper).__name__} has no error estimate, which adaptive steps need; take Tsit5, Dopri5 or "
            "Bosh3, or use ConstantSteps or FixedGrid"
        )
    y0 = problem.start
    t0, t1 = _per_sample(problem.t0, y0), _per_sample(problem.t1, y0)
    recorder, tally = SampleRecorder(saveat, t0, t1, y0), _Tally(y0)
    samples = _begin(problem, stepper, controller, t0, t1)
    # `active` is the equation for the samples in the batch.
    active, samples = _retire(problem, samples, tally, recorder)
    if active is not None and torch.is_grad_enabled() and bool((tally.status != 0).any()):
        samples = _restart(active, stepper, samples)
    while active is not None:
        samples = _advance(active, stepper, controller, samples, recorder)
        if bool((samples.code != _RUNNING).any()):
            active, samples = _retire(active, samples, tally, recorder)
    stats = Statistics(tally.nfe, tally.accepted, tally.rejected)
    return Solution(_save_times(problem, saveat, t1), recorder.states(), stats, tally.status, tally.stopped)


def _begin(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    t0: Tensor,
    t1: Tensor,
) -> _Samples:
    y0 = problem.start
    carry = stepper.init(problem, t0, y0)
    slope = stepper.initial_slope(carry)
    with torch.no_grad():
        first = controller.initial_step(problem, stepper, t0, t1, None if slope is None else slope.detach())
        healthy = _finite(y0) if slope is None else _finite(y0) & _finite(slope)
    zero = torch.zeros_like(t0, dtype=torch.int64)
    code = torch.where(t0 == t1, int(Status.SUCCESS), _RUNNING)
    return _Samples(
        rows=torch.arange(len(y0), device=y0.device),
        t=t0,
        t1=t1,
        dt=first.dt,
        y=y0,
        carry=carry,
        memory=controller.initial_memory(t0),
        nfe=zero + stepper.init_nfe + first.nfe,
        accepted=zero,
        rejected=zero,
        code=torch.where(healthy, code, int(Status.NON_FINITE)),
    )


def _advance(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    now: _Samples,
    recorder: SampleRecorder,
) -> _Samples:
    """Try one step of every running sample."""
    running = now.code == _RUNNING
    # A step that all but reaches the end reaches it: no sliver is left over, and t1 is hit exactly.
    reaches = now.dt.abs() >= (now.t1 - now.t).abs() * (1 - 1e-10)
    target = torch.where(reaches, now.t1, now.t + now.dt)
    target = torch.where(running, target, now.t)
    result = stepper.step(problem, now.t, target, now.y, now.carry)
    assert result.error is not None
    assert stepper.error_order is not None
    with torch.no_grad():
        y0, y1 = now.y.detach(), result.y1.detach()
        verdict = controller.decide(result.error.detach(), y0, y1, now.memory, stepper.error_order)
        finite = verdict.finite if result.failed is None else verdict.finite & ~result.failed
        accept = verdict.accept & finite & running
        # Backward through a trial step that is not finite makes 0 · inf = NaN, for shared parameters too. So nobody
        # keeps such a step: the others take theirs again, at the same size, once the guilty sample has shrunk its own.
        tainted = result.y1.requires_grad and bool((~finite & running).any())
        retry = finite & running if tainted else torch.zeros_like(accept)
        accept = accept & ~retry
        rejected = running & ~accept & ~retry
        dt, code = _next_step(controller, now, target, verdict.factor, accept, retry, finite)
    cost = recorder.step(now.rows, now.t, target, accept, result)
    nfe = now.nfe + torch.where(running, result.nfe, 0)
    # Merging a tainted step would put it into the graph, even where nothing of it is taken.
    y, carry = (now.y, now.carry) if tainted else merge_rows(accept, (result.y1, result.carry), (now.y, now.carry))
    return _Samples(
        rows=now.rows,
        t=torch.where(accept, target, now.t),
        t1=now.t1,
        dt=dt,
        y=y,
        carry=carry,
        memory=merge_rows(accept, verdict.memory, now.memory),
        nfe=nfe if cost is None else nfe + cost,
        accepted=now.accepted + accept,
        rejected=now.rejected + rejected,
        code=torch.where(running, _exhausted(controller, now, accept | rejected, code), now.code),
    )


def _next_step(
    controller: AbstractAdaptiveController,
    now: _Samples,
    target: Tensor,
    factor: Tensor,
    accept: Tensor,
    retry: Tensor,
    finite: Tensor,
) -> tuple[Tensor, Tensor]:
    """The next trial step and the status of every sample after this one."""
    tried = target - now.t
    floor = (8 * torch.finfo(torch.float64).eps * now.t.abs()).clamp(min=controller.dt_min)
    floor = torch.maximum(floor, 1e-20 * (now.t1 - now.t).abs())
    size = (tried.abs() * factor).clamp(max=controller.dt_max).maximum(floor)
    dt = torch.where(retry, now.dt, tried.sign() * size)
    # The step asked for counts, not only the one taken: t + dt rounds, possibly to a little more than the floor.
    stuck = ~accept & ~retry & (torch.minimum(tried.abs(), now.dt.abs()) <= floor)
    reason = torch.where(finite, int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE))
    code = torch.where(stuck, reason, _RUNNING)
    return dt, torch.where(accept & (target == now.t1), int(Status.SUCCESS), code)


def _exhausted(controller: AbstractAdaptiveController, now: _Samples, tried: Tensor, code: Tensor) -> Tensor:
    used = now.accepted + now.rejected + tried
    return torch.where((code == _RUNNING) & (used >= controller.max_steps), int(Status.MAX_STEPS), code)


def _retire(
    problem: AbstractProblem, samples: _Samples, tally: _Tally, recorder: SampleRecorder
) -> tuple[AbstractProblem | None, _Samples]:
    """Write down the samples that are done and take them out of the batch; no problem is left when all are.

    A batch that cannot be taken apart waits, its finished samples frozen, until all are done.
    """
    running = samples.code == _RUNNING
    places = torch.nonzero(running).flatten()
    if len(places) == len(running) or (len(places) and not problem.separable):
        return problem, samples
    left = samples.keep(torch.nonzero(~running).flatten())
    tally.note(left)
    good = torch.nonzero(left.code == int(Status.SUCCESS)).flatten()
    recorder.end(left.rows[good], left.y[good])
    if not len(places):
        return None, samples
    return problem.at_rows(places), samples.keep(places)


def _restart(problem: AbstractProblem, stepper: AbstractStepper, samples: _Samples) -> _Samples:
    """Evaluate the first slope again without the samples where it was not finite: they would spoil every gradient."""
    carry = stepper.init(problem, samples.t, samples.y)
    return dataclasses.replace(samples, carry=carry, nfe=samples.nfe + stepper.init_nfe)


def _per_sample(time: Time, y0: Tensor) -> Tensor:
    value = torch.as_tensor(time, dtype=torch.float64, device=y0.device)
    if value.ndim > 1 or (value.ndim and value.shape[0] != len(y0)):
        raise ValueError(f"a time has shape {tuple(value.shape)}; expected a float or ({len(y0)},), one per sample")
    return value.detach().expand(len(y0)).clone()


def _save_times(problem: AbstractProblem, saveat: SaveAt, t1: Tensor) -> Tensor:
    if saveat.ts is not None:
        return saveat.times.to(t1.device)
    shared = not isinstance(problem.t1, Tensor) or problem.t1.ndim == 0
    return t1[:1] if shared else t1[None]


def _finite(y: Tensor) -> Tensor:
    return y.detach().isfinite().reshape(len(y), -1).all(1)
