"""The loop where every sample has its own clock: its own steps, span and fate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.event import Event, crosses, find_crossing
from isocline.solvers.problem import AbstractProblem, Time
from isocline.solvers.rows import merge_rows, select_rows
from isocline.solvers.saving import SampleRecorder
from isocline.solvers.solution import SaveAt, Solution, Statistics, Status
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.tape import AbstractTape, Saved, StepRecord

__all__ = ["Clocks", "Trial", "integrate_samples", "try_step"]

_RUNNING = -1
_ULP = 4 * torch.finfo(torch.float64).eps


class Clocks(NamedTuple):
    """The samples in the batch; every tensor leads with their number n, times are float64.

    Attributes:
        t: where each is.
        t1: where each is going; a sample that failed stays where it is.
        size: next trial step, unsigned.
        sign: direction of integration.
        y: states, shape (n, *event).
        carry: of the stepper.
        memory: of the controller.
        alive: which still run, bool.
    """

    t: Tensor
    t1: Tensor
    size: Tensor
    sign: Tensor
    y: Tensor
    carry: Any
    memory: Tensor | None
    alive: Tensor


class Trial(NamedTuple):
    """A trial step of every sample, judged but not yet taken.

    Attributes:
        target: where it leads.
        tried: its unsigned length.
        result: the step.
        accept: which samples take it.
        factor: by which each multiplies its step.
        memory: of the controller, where it is taken.
        finite: where the step was finite and valid.
        last: where the step leads to the end of the span.
    """

    target: Tensor
    tried: Tensor
    result: StepResult
    accept: Tensor
    factor: Tensor
    memory: Tensor | None
    finite: Tensor
    last: Tensor


@dataclass(slots=True)
class _Count:
    """Per-sample bookkeeping of the samples in the batch, shape (n,) each."""

    rows: Tensor
    nfe: Tensor
    tried: Tensor
    accepted: Tensor
    code: Tensor
    jacobians: Tensor
    factorizations: Tensor
    at_event: Tensor | None
    level: Tensor | None

    def keep(self, places: Tensor) -> None:
        """Only the samples at ``places``."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, select_rows(getattr(self, field.name), places))


def try_step(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    now: Clocks,
    stop: Tensor,
) -> Trial:
    """Try a step of every sample, up to ``stop`` at most; no host synchronisation, so that it can be compiled."""
    # A step that all but reaches the end reaches it: no sliver is left over, and t1 is hit exactly.
    last = now.size >= (stop - now.t).abs_().mul_(1 - 1e-10)
    target = torch.where(last, stop, torch.addcmul(now.t, now.sign, now.size))
    result = stepper.step(problem, now.t, target, now.y, now.carry)
    assert result.error is not None
    assert stepper.error_order is not None
    order = stepper.error_order if result.error_order is None else result.error_order
    with torch.no_grad():
        verdict = controller.decide(result.error.detach(), now.y.detach(), result.y1.detach(), now.memory, order)
        accept, finite, factor = verdict.accept & now.alive, verdict.finite, verdict.factor
        if result.failed is not None:
            accept, finite = accept & ~result.failed, finite & ~result.failed
            factor = torch.where(result.failed, controller.factor_min, factor)
        tried = (target - now.t).abs_()
    return Trial(target, tried, result, accept, factor, verdict.memory, finite, last)


class _Loop:
    """One solve."""

    def __init__(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractAdaptiveController,
        saveat: SaveAt,
        tape: AbstractTape | None,
        event: Event | None,
        attempt: Any,
    ) -> None:
        self.problem, self.stepper, self.controller = problem, stepper, controller
        self.tape, self.event, self.attempt = tape, event, attempt
        y0 = problem.start
        t0, t1 = _per_sample(problem.t0, y0), _per_sample(problem.t1, y0)
        self.recorder = SampleRecorder(saveat, t0, t1, y0)
        self.saves_times = saveat.ts is not None
        zero = torch.zeros(len(y0), dtype=torch.int64, device=y0.device)
        self.totals = Statistics(*(zero.clone() for _ in range(5)))
        self.status, self.stopped = zero.clone(), t0.clone()
        self.stops, self.jumps = _stops(controller, y0.device)
        self._begin(t0, t1)

    def _begin(self, t0: Tensor, t1: Tensor) -> None:
        problem, stepper, y0 = self.problem, self.stepper, self.problem.start
        if self.tape is not None:
            self.tape.start(problem, stepper, t0, self.recorder.start)
        carry = stepper.init(problem, t0, y0)
        slope = stepper.initial_slope(carry)
        with torch.no_grad():
            first = self.controller.initial_step(problem, stepper, t0, t1, None if slope is None else slope.detach())
            healthy = _finite(y0) if slope is None else _finite(y0) & _finite(slope)
            level = None if self.event is None else self.event.evaluate(problem, t0, y0)
        zero = torch.zeros_like(t0, dtype=torch.int64)
        code = torch.where(t0 == t1, int(Status.SUCCESS), _RUNNING)
        code = torch.where(healthy, code, int(Status.NON_FINITE))
        self.count = _Count(
            torch.arange(len(y0), device=y0.device),
            zero + stepper.init_nfe + first.nfe,
            zero.clone(),
            zero.clone(),
            code,
            zero.clone(),
            zero.clone(),
            None if self.event is None else torch.zeros_like(t0, dtype=torch.bool),
            level,
        )
        sign = torch.where(t1 >= t0, 1.0, -1.0).to(torch.float64)
        alive = code == _RUNNING
        end = torch.where(alive, t1, t0)
        self.now = Clocks(t0, end, first.size, sign, y0, carry, self.controller.initial_memory(t0), alive)
        self.living = int(alive.sum())
        self.begun = self.living

    def run(self) -> None:
        """Step until every sample is done."""
        with torch.no_grad():
            failed = bool((self.count.code > 0).any())
        self._compact()
        if self.living and failed and torch.is_grad_enabled():
            # Evaluate the first slope again without samples where it was not finite: they would spoil every gradient.
            carry = self.stepper.init(self.problem, self.now.t, self.now.y)
            self.now = self.now._replace(carry=carry)
            self.count.nfe += self.stepper.init_nfe
        rounds = 0
        while self.living:
            self._advance()
            rounds += 1
            if rounds >= self.controller.max_steps:
                self._expire()
            total = len(self.now.t)
            # Taking samples out costs about as much as a step: it pays when an eighth is done. Under a gradient they
            # leave at once, lest what they do while they wait is recorded.
            if self.living < total and (self.living <= 0.875 * total or torch.is_grad_enabled()):
                self._compact()

    def _advance(self) -> None:
        now, count = self.now, self.count
        stop = now.t1 if self.stops is None else self._next_stop()
        trial = self.attempt(self.problem, self.stepper, self.controller, now, stop)
        accept = trial.accept
        taken = int(accept.sum())
        if taken < self.living and trial.result.y1.requires_grad:
            accept, retry = self._without_taint(trial, accept)
            taken = int(accept.sum())
        else:
            retry = None
        t1, crossing = now.t1, None
        if self.event is not None:
            accept, t1, crossing = self._watch(self.event, trial, accept)
            taken = int(accept.sum())
        size = (trial.tried * trial.factor).clamp_(max=self.controller.dt_max)
        floor = now.t.abs().mul_(_ULP).clamp_(min=self.controller.dt_min)
        size = torch.maximum(size, floor)
        if retry is not None:
            size = torch.where(retry, now.size, size)
        if crossing is not None:
            size = torch.where(crossing, (t1 - now.t).abs(), size)
        count.tried.add_(now.alive)
        count.accepted.add_(accept)
        self._add_work(trial.result, now.alive)
        ends = accept & trial.last if self.stops is None else accept & (trial.target == t1)
        alive, dead = now.alive, 0
        if self.saves_times or self.tape is not None or bool(ends.any()):
            saved = self._record(trial, accept, ends, taken)
            finished = int(ends.sum())
            if finished:
                code = int(Status.SUCCESS)
                count.code = torch.where(ends, code, count.code)
                alive, dead = alive & ~ends, finished
            if self.tape is not None and taken:
                self._tell(self.tape, trial, accept, taken, saved)
        if taken < self.living:
            alive, t1, more = self._give_up(trial, accept, retry, floor, alive, t1)
            dead += more
        self._move(trial, accept, taken, size, t1, alive)
        self.living -= dead
        if self.jumps is not None:
            self._leap(self.jumps, accept)

    def _move(self, trial: Trial, accept: Tensor, taken: int, size: Tensor, t1: Tensor, alive: Tensor) -> None:
        now, result = self.now, trial.result
        if taken == len(accept):
            state = (trial.target, result.y1, result.carry, trial.memory)
        elif taken == 0:
            # Merging a step of which nothing is taken would still put it into the graph.
            state = (now.t, now.y, now.carry, now.memory)
        else:
            state = merge_rows(
                accept, (trial.target, result.y1, result.carry, trial.memory), (now.t, now.y, now.carry, now.memory)
            )
        t, y, carry, memory = state
        self.now = Clocks(t, t1, size, now.sign, y, carry, memory, alive)

    def _without_taint(self, trial: Trial, accept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Who takes a step that was not finite for some, and who takes it again as it is.

        Backward through a trial step that is not finite makes 0 · inf = NaN, for shared parameters too. So nobody keeps
        such a step: the others take theirs again, at the same size, once the guilty sample has shrunk its own.
        """
        alive = self.now.alive
        if bool((trial.finite | ~alive).all()):
            return accept, None
        return torch.zeros_like(accept), trial.finite & alive

    def _watch(self, event: Event, trial: Trial, accept: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Let the span of samples whose step crosses the event end there; they step again, up to there."""
        now, count, result = self.now, self.count, trial.result
        assert count.level is not None
        assert count.at_event is not None
        with torch.no_grad():
            after = event.evaluate(self.problem, trial.target, result.y1.detach())
            crossing = accept & ~count.at_event & crosses(event, count.level, after)
            count.level = torch.where(accept & ~crossing & (after != 0), after, count.level)
            local = torch.nonzero(crossing).flatten()
            if not len(local):
                return accept, now.t1, None
            if result.dense is None:
                raise ValueError("an event needs a stepper with dense output; take Tsit5 or Dopri5")
            part = self.problem.at_rows(local) if self.problem.separable else self.problem
            before, end = count.level[local], after[local]
            share = find_crossing(event, part, result.dense, now.t, trial.target, local, before, end)
            time = now.t[local] + share * (trial.target - now.t)[local]
            count.at_event = count.at_event | crossing
            return accept & ~crossing, now.t1.index_copy(0, local, time), crossing

    def _add_work(self, result: StepResult, alive: Tensor) -> None:
        count = self.count
        for total, work in (
            (count.nfe, result.nfe),
            (count.jacobians, result.jacobians),
            (count.factorizations, result.factorizations),
        ):
            if isinstance(work, Tensor):
                total.add_(torch.where(alive, work, 0))
            elif work:
                total.add_(alive, alpha=work)

    def _record(self, trial: Trial, accept: Tensor, ends: Tensor, taken: int) -> tuple[Saved, ...]:
        if not taken:
            return ()
        rows = self.count.rows
        recorded = self.recorder.step(rows, self.now.t, trial.target, accept, ends, trial.result)
        if isinstance(recorded.cost, Tensor):
            self.count.nfe += recorded.cost
        return recorded.saved

    def _tell(self, tape: AbstractTape, trial: Trial, accept: Tensor, taken: int, saved: tuple[Saved, ...]) -> None:
        now, rows = self.now, self.count.rows
        everyone = len(rows) == len(self.status)
        tape.step(
            StepRecord(
                self.problem,
                None if everyone else rows,
                now.t,
                trial.target,
                now.y,
                now.carry,
                None if taken == len(accept) else accept,
                saved,
                trial.result.dense,
            )
        )

    def _give_up(
        self, trial: Trial, accept: Tensor, retry: Tensor | None, floor: Tensor, alive: Tensor, t1: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """End samples whose step was rejected at the smallest size."""
        now, count = self.now, self.count
        # The step asked for counts, not only the one taken: t + dt rounds, possibly to a little more than the floor.
        stuck = alive & ~accept & (torch.minimum(trial.tried, now.size) <= floor)
        if retry is not None:
            stuck &= ~retry
        if not bool(stuck.any()):
            return alive, t1, 0
        reason = torch.where(trial.finite, int(Status.STEP_TOO_SMALL), int(Status.NON_FINITE))
        if trial.result.failed is not None:
            reason = torch.where(trial.result.failed, int(Status.STEP_FAILED), reason)
        count.code = torch.where(stuck, reason, count.code)
        return alive & ~stuck, torch.where(stuck, now.t, t1), int(stuck.sum())

    def _expire(self) -> None:
        alive = self.now.alive
        spent = alive & (self.count.tried >= self.controller.max_steps)
        self.count.code = torch.where(spent, int(Status.MAX_STEPS), self.count.code)
        self.now = self.now._replace(alive=alive & ~spent, t1=torch.where(spent, self.now.t, self.now.t1))
        self.living -= int(spent.sum())

    def _next_stop(self) -> Tensor:
        assert self.stops is not None
        now = self.now
        forward = self.stops[torch.searchsorted(self.stops, now.t, right=True).clamp_(max=len(self.stops) - 1)]
        backward = self.stops[(torch.searchsorted(self.stops, now.t) - 1).clamp_(min=0)]
        stop = torch.where(now.sign > 0, forward, backward)
        between = (now.sign * (stop - now.t) > 0) & (now.sign * (now.t1 - stop) > 0)
        return torch.where(between, stop, now.t1)

    def _leap(self, jumps: Tensor, accept: Tensor) -> None:
        """Evaluate the slope again just beyond a jump of the field."""
        now = self.now
        at = accept & now.alive & torch.isin(now.t, jumps)
        if not bool(at.any()):
            return
        beyond = torch.where(at, torch.nextafter(now.t, now.sign * torch.inf), now.t)
        carry = self.stepper.init(self.problem, beyond, now.y)
        self.now = now._replace(carry=merge_rows(at, carry, now.carry))
        self.count.nfe.add_(at, alpha=self.stepper.init_nfe)

    def _compact(self) -> None:
        """Write down the samples that are done and take them out of the batch.

        A batch that cannot be taken apart waits, its finished samples frozen, until all are done.
        """
        now, count = self.now, self.count
        if self.living == len(now.t) or (self.living and not self.problem.separable):
            return
        done = torch.nonzero(~now.alive).flatten()
        rows, totals = count.rows[done], self.totals
        rejected = count.tried - count.accepted
        for total, value in zip(
            (totals.nfe, totals.accepted, totals.rejected, totals.jacobians, totals.factorizations),
            (count.nfe, count.accepted, rejected, count.jacobians, count.factorizations),
            strict=True,
        ):
            total[rows] = value[done]
        code = count.code[done]
        if count.at_event is not None:
            code = torch.where(count.at_event[done] & (code == int(Status.SUCCESS)), int(Status.EVENT), code)
        self.status[rows], self.stopped[rows] = code, now.t[done]
        if not self.living:
            return
        places = torch.nonzero(now.alive).flatten()
        self.problem = self.problem.at_rows(places)
        self.now = select_rows(now, places)
        count.keep(places)


def integrate_samples(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    saveat: SaveAt,
    tape: AbstractTape | None = None,
    event: Event | None = None,
    attempt: Any = try_step,
) -> Solution:
    """Integrate with per-sample steps; see `isocline.solvers.solve`.

    Args:
        problem: what to integrate.
        stepper: the method.
        controller: the steps.
        saveat: states to keep.
        tape: listens to the steps.
        event: ends samples.
        attempt: `try_step`, or a compiled version of it.
    """
    loop = _Loop(problem, stepper, controller, saveat, tape, event, attempt)
    loop.run()
    ts = saveat.times.to(loop.stopped.device) if saveat.ts is not None else _end_times(problem, loop)
    return Solution(ts, loop.recorder.states(), loop.totals, loop.status, loop.stopped)


def _end_times(problem: AbstractProblem, loop: _Loop) -> Tensor:
    if isinstance(problem.t1, Tensor) and problem.t1.ndim:
        t1 = problem.t1.detach().to(loop.stopped)
    elif loop.event is None:
        return torch.as_tensor(problem.t1, dtype=torch.float64).detach().to(loop.stopped.device).reshape(1)
    else:
        t1 = torch.as_tensor(problem.t1, dtype=torch.float64).detach().to(loop.stopped.device).expand_as(loop.stopped)
    return torch.where(loop.status == int(Status.EVENT), loop.stopped, t1)[None]


def _per_sample(time: Time, y0: Tensor) -> Tensor:
    value = torch.as_tensor(time, dtype=torch.float64, device=y0.device)
    if value.ndim > 1 or (value.ndim and value.shape[0] != len(y0)):
        raise ValueError(f"a time has shape {tuple(value.shape)}; expected a float or ({len(y0)},), one per sample")
    return value.detach().expand(len(y0)).clone()


def _stops(controller: AbstractAdaptiveController, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    jumps = torch.as_tensor(controller.jump_ts, dtype=torch.float64, device=device).reshape(-1)
    every = torch.cat([jumps, torch.as_tensor(controller.step_ts, dtype=torch.float64, device=device).reshape(-1)])
    return torch.unique(every) if len(every) else None, jumps if len(jumps) else None


def _finite(y: Tensor) -> Tensor:
    return y.detach().isfinite().reshape(len(y), -1).all(1)
