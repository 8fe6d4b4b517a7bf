"""The loop where every sample has its own clock: its own steps, span and fate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.solvers.compiled import BLOCK, CompiledStep
from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.event import Event, crosses, find_crossing
from isocline.solvers.finite import all_finite, finite_rows
from isocline.solvers.ledger import RUNNING, Departures, RoundHistory, SampleCounts
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.rows import merge_rows, select_rows
from isocline.solvers.saving import SampleRecorder
from isocline.solvers.solution import SaveAt, Solution, Status
from isocline.solvers.spans import end_times, per_sample, stops
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.tape import AbstractTape, Saved, StepRecord
from isocline.solvers.trial import Clocks, Trial, merged, raised, rounds_to_smallest, stuck, try_step

__all__ = ["integrate_samples"]

_PATIENCE = BLOCK
"""Rounds between two looks for samples that are stuck at the smallest step."""
_CROWDED = 0.8
"""Share of living samples at which the others are taken out."""


class _Finished(NamedTuple):
    """What all samples have done and when they stopped, in the order of the batch."""

    counts: SampleCounts
    stopped: Tensor


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
        compiled: CompiledStep | None,
    ) -> None:
        if tape is None and compiled is None:
            stepper = stepper.for_one_solve()
        self.problem, self.stepper, self.controller = problem, stepper, controller
        self.tape, self.event, self.compiled = tape, event, compiled
        y0 = problem.start
        t0, t1 = per_sample(problem.t0, y0), per_sample(problem.t1, y0)
        self.recorder = SampleRecorder(saveat, t0, t1, y0)
        self.saves_times = saveat.ts is not None
        self.size, self.departed = len(y0), Departures()
        self.stops, self.jumps = stops(controller, y0.device)
        self.listens = self.saves_times or tape is not None or event is not None or self.jumps is not None
        self.attempt, self.block = None, None
        if compiled is not None and (self.listens or self.stops is not None or torch.is_grad_enabled()):
            self.attempt = compiled.attempt(problem, stepper, controller, wants_dense=self.listens)
        elif compiled is not None:
            self.block = compiled.block(problem, stepper, controller)
        self._begin(t0, t1)

    def _begin(self, t0: Tensor, t1: Tensor) -> None:
        problem, stepper, y0 = self.problem, self.stepper, self.problem.start
        if self.tape is not None:
            self.tape.start(problem, stepper, t0, self.recorder.start)
        carry = stepper.init(problem, t0, y0)
        slope = stepper.initial_slope(carry)
        self.begins_well = all_finite(y0) and (slope is None or all_finite(slope))
        with torch.no_grad():
            first = self.controller.initial_step(problem, stepper, t0, t1, None if slope is None else slope.detach())
            level = None if self.event is None else self.event.evaluate(problem, t0, y0)
        code = torch.where(t0 == t1, int(Status.SUCCESS), RUNNING)
        lost = torch.isnan(t1 - t0)
        if bool(lost.any()):
            code = torch.where(lost & (code == RUNNING), int(Status.NON_FINITE), code)
        if not self.begins_well:
            healthy = finite_rows(y0) if slope is None else finite_rows(y0) & finite_rows(slope)
            code = torch.where(healthy, code, int(Status.NON_FINITE))
        self.count = SampleCounts.start(code, stepper.init_nfe + first.nfe, level)
        alive = code == RUNNING
        end = torch.where(alive, t1, t0)
        size = torch.copysign(first.size, t1 - t0)
        self.now = Clocks(t0, end, size, y0, carry, self.controller.initial_memory(t0), alive)
        self.living = int(torch.count_nonzero(alive))
        self.rounds = self.roomy_until = 0
        self.history = RoundHistory()

    def run(self) -> None:
        """Step until every sample is done."""
        self._compact()
        if self.living and not self.begins_well and torch.is_grad_enabled():
            # Evaluate the first slope again without samples where it was not finite: they would spoil every gradient.
            carry = self.stepper.init(self.problem, self.now.t, self.now.y)
            self.now = self.now._replace(carry=carry)
            self.count.work[0].add_(self.stepper.init_nfe)
        while self.living:
            if self.block is None:
                self._advance()
            else:
                self._advance_block()
            if self.rounds >= self.controller.max_steps and self.living:
                self._end(self.now.alive, int(Status.MAX_STEPS), self.living)
            total = len(self.now.t)
            # Taking samples out costs about as much as a step: it pays when some are done. Under a gradient they
            # leave at once, lest what they do while they wait is recorded.
            if self.living < total and (self.living <= _CROWDED * total or torch.is_grad_enabled()):
                self._compact()

    def _advance(self) -> None:
        now = self.now
        stop = now.t1 if self.stops is None else self._next_stop()
        if self.attempt is None:
            trial = try_step(self.problem, self.stepper, self.controller, now, stop)
        else:
            trial = self.attempt(now, stop, self.problem.cond)
        self.rounds += 1
        self._add_work(trial.result)
        if self.listens or not self._moves_on(trial):
            self._settle(trial, trial.accept if self.living == len(now.t) else trial.accept & now.alive)

    def _advance_block(self) -> None:
        """Several steps in one call, between which nobody asks about anything."""
        assert self.block is not None
        now, count, before = self.now, self.count, self.rounds
        number = min(BLOCK, self.controller.max_steps - before)
        after = self.block(now, torch.full((), number, device=now.t.device), self.problem.cond)
        self.rounds += number
        nfe, jacobians, factorizations = after.work
        each = StepResult(now.y, nfe=nfe, jacobians=jacobians, factorizations=factorizations)
        for _ in range(number):
            self.history.add(each)
        for total, work in zip(count.work, after.work, strict=True):
            if isinstance(work, Tensor):
                total.add_(work)
        tried, accepted, code = after.tallies.unbind(0)
        count.accepted.add_(accepted)
        ended, failed = after.ended.tolist()
        if ended:
            count.tried.copy_(torch.where(now.alive & ~after.moved.alive, tried + before, count.tried))
            self.living -= ended
        if failed:
            count.code.copy_(torch.where(code == RUNNING, count.code, code))
        self.now = after.moved

    def _moves_on(self, trial: Trial) -> bool:
        """Take the step where nobody asks what it leaves behind; end states are stored when samples leave the batch."""
        now, result = self.now, trial.result
        if trial.moved is None:
            # Does every sample take the step, and none of them end?
            everyone = self.living == len(now.t) and torch.equal(torch.gt(trial.accept, trial.last), now.alive)
            if everyone:
                self.history.accepted[-1] += 1
                self.now = Clocks(trial.target, now.t1, trial.size, result.y1, result.carry, trial.memory, now.alive)
            if everyone or result.y1.requires_grad:
                return everyone
            # Nobody can be at the smallest step yet: what looks for those is a third of a merge.
            is_roomy = self.rounds <= self.roomy_until
            trial = merged(trial, now, None if is_roomy else self.controller.dt_min)
        elif result.y1.requires_grad and not torch.equal(trial.accept, now.alive):
            return False
        assert trial.moved is not None
        self.count.accepted.add_(trial.accept)
        if not torch.equal(trial.moved.alive, now.alive):
            self.count.tried.masked_fill_(torch.gt(now.alive, trial.moved.alive), self.rounds)
            self.living = int(torch.count_nonzero(trial.moved.alive))
        self.now = trial.moved
        if self.rounds > self.roomy_until and self.rounds % _PATIENCE == 0:
            self._give_up(trial, trial.accept, None, now)
            control = self.controller
            self.roomy_until = self.rounds + rounds_to_smallest(self.now, control.dt_min, control.factor_min)
        return True

    def _settle(self, trial: Trial, accept: Tensor) -> None:
        """Take the step where it is accepted; save, and end what is to end."""
        now, count, size, retry, crossing = self.now, self.count, trial.size, None, None
        if trial.result.y1.requires_grad:
            accept, retry = self._without_taint(trial, accept)
        if self.event is not None:
            accept, crossing = self._watch(self.event, trial, accept)
        count.accepted.add_(accept)
        size = raised(size, accept, now, self.controller.dt_min)
        if retry is not None:
            size = torch.where(retry, now.size, size)
        if crossing is not None:
            # An event within rounding of where the sample is leaves no way: the step there has the length zero.
            way = self.now.t1 - now.t
            size = torch.where(crossing, torch.where(way == 0, now.size, way), size)
        ends = accept & trial.last if self.stops is None else accept & (trial.target == self.now.t1)
        finished = int(ends.sum()) if bool(ends.any()) else 0
        if finished or self.saves_times or self.tape is not None:
            self._keep(trial, accept, ends)
        self._move(trial, accept, size)
        if finished:
            self._end(ends, int(Status.SUCCESS), finished)
        if self.rounds % _PATIENCE == 0:
            self._give_up(trial, accept, retry, now)
        if self.jumps is not None:
            self._leap(self.jumps, accept)

    def _keep(self, trial: Trial, accept: Tensor, ends: Tensor) -> None:
        """Save states, and tell who listens."""
        taken = int(accept.sum())
        if not taken:
            return
        count = self.count
        recorded = self.recorder.step(count.rows, self.now.t, trial.target, accept, ends, trial.result)
        if isinstance(recorded.cost, Tensor):
            count.work[0].add_(recorded.cost)
        if self.tape is not None:
            self._tell(self.tape, trial, accept, taken, recorded.saved)

    def _move(self, trial: Trial, accept: Tensor, size: Tensor) -> None:
        now, result = self.now, trial.result
        new = (trial.target, result.y1, result.carry, trial.memory)
        old = (now.t, now.y, now.carry, now.memory)
        if result.y1.requires_grad:
            # Merging would put steps into the graph of which nothing is taken.
            taken = int(accept.sum())
            t, y, carry, memory = new if taken == len(accept) else merge_rows(accept, new, old) if taken else old
        else:
            t, y, carry, memory = merge_rows(accept, new, old)
        self.now = Clocks(t, now.t1, size, y, carry, memory, now.alive)

    def _end(self, done: Tensor, code: int | Tensor, number: int) -> None:
        """These samples are done: nothing more happens to them."""
        now, count = self.now, self.count
        count.code.copy_(torch.where(done, code, count.code))
        count.tried.masked_fill_(done, self.rounds)
        self.now = now._replace(alive=now.alive & ~done, t1=torch.where(done, now.t, now.t1))
        self.living -= number

    def _without_taint(self, trial: Trial, accept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Who takes a step that was not finite for some, and who takes it again as it is.

        Backward through a trial step that is not finite makes 0 · inf = NaN, for shared parameters too. So nobody keeps
        such a step: the others take theirs again, at the same size, once the guilty sample has shrunk its own.
        """
        alive = self.now.alive
        if bool((trial.finite | ~alive).all()):
            return accept, None
        return torch.zeros_like(accept), trial.finite & alive

    def _watch(self, event: Event, trial: Trial, accept: Tensor) -> tuple[Tensor, Tensor | None]:
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
                return accept, None
            if result.dense is None:
                raise ValueError("an event needs a stepper with dense output; take Tsit5 or Dopri5")
            part = self.problem
            rows = local if part.separable else torch.arange(len(crossing), device=local.device)
            part = part.at_rows(local) if part.separable else part
            before, end = count.level[rows], after[rows]
            share = find_crossing(event, part, result.dense, now.t, trial.target, rows, before, end)
            share = share if part.separable else share[local]
            time = now.t[local] + share * (trial.target - now.t)[local]
            count.at_event = count.at_event | crossing
            self.now = now._replace(t1=now.t1.index_copy(0, local, time))
            return accept & ~crossing, crossing

    def _add_work(self, result: StepResult) -> None:
        if self.history.add(result):
            return
        for total, work in zip(self.count.work, (result.nfe, result.jacobians, result.factorizations), strict=True):
            if isinstance(work, Tensor):
                total.add_(torch.where(self.now.alive, work, 0))

    def _tell(self, tape: AbstractTape, trial: Trial, accept: Tensor, taken: int, saved: tuple[Saved, ...]) -> None:
        now, rows = self.now, self.count.rows
        everyone = len(rows) == self.size
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

    def _give_up(self, trial: Trial, accept: Tensor, retry: Tensor | None, before: Clocks) -> None:
        """End samples whose step was rejected at the smallest size, or has shrunk to nothing."""
        ends, reason = stuck(trial, accept, before, self.now.alive, self.controller.dt_min)
        number = int((ends if retry is None else ends.logical_and_(~retry)).sum())
        if number:
            self._end(ends, reason, number)

    def _next_stop(self) -> Tensor:
        assert self.stops is not None
        now = self.now
        forward = self.stops[torch.searchsorted(self.stops, now.t, right=True).clamp_(max=len(self.stops) - 1)]
        backward = self.stops[(torch.searchsorted(self.stops, now.t) - 1).clamp_(min=0)]
        stop = torch.where(now.size > 0, forward, backward)
        sign = now.size.sign()
        between = (sign * (stop - now.t) > 0) & (sign * (now.t1 - stop) > 0)
        return torch.where(between, stop, now.t1)

    def _leap(self, jumps: Tensor, accept: Tensor) -> None:
        """Go on with the slope beyond a jump of the field."""
        now = self.now
        at = accept & now.alive & torch.isin(now.t, jumps)
        if not bool(at.any()):
            return
        carry = self.stepper.init(self.problem, now.t, now.y)
        self.now = now._replace(carry=merge_rows(at, carry, now.carry))
        self.count.work[0].add_(at, alpha=self.stepper.init_nfe)

    def _compact(self) -> None:
        """Take the samples that are done out of the batch.

        A batch that cannot be taken apart waits, its finished samples frozen, until all are done.
        """
        now, count = self.now, self.count
        if not self.living:
            self.departed.add_all(count, now.t, now.y)
            return
        if self.living == len(now.t) or not self.problem.separable:
            return
        fewest = 1 if self.compiled is None else self.compiled.fewest
        if len(now.t) <= fewest:
            return
        done = torch.nonzero(~now.alive).flatten()
        keep = now.alive
        if self.living < fewest:
            few = fewest - self.living
            keep, done = keep.index_fill(0, done[:few], True), done[few:]
        self.departed.add(count.at(done), now.t.index_select(0, done), now.y.index_select(0, done))
        places = torch.nonzero(keep).flatten()
        self.problem = self.problem.at_rows(places)
        self.now = select_rows(now, places)
        self.count = count.at(places)

    def finish(self) -> _Finished:
        """Write down what everybody has done, once all are done."""
        gone, t, y = self.departed.gathered()
        gone.add(self.history.until(gone.tried))
        running = gone.code == RUNNING
        if self.departed.whole and bool(running.all()):
            self.recorder.store_all(y)
        else:
            new = torch.nonzero(running).flatten()
            self.recorder.store(gone.rows.index_select(0, new), y.index_select(0, new))
        gone.code.masked_fill_(running, int(Status.SUCCESS))
        if gone.at_event is not None:
            gone.code.masked_fill_(gone.at_event & (gone.code == int(Status.SUCCESS)), int(Status.EVENT))
        if self.departed.whole:
            return _Finished(gone, t)
        return _Finished(gone.in_order(), torch.empty_like(t).index_copy_(0, gone.rows, t))


def integrate_samples(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    saveat: SaveAt,
    tape: AbstractTape | None = None,
    event: Event | None = None,
    compiled: CompiledStep | None = None,
) -> Solution:
    """Integrate with per-sample steps; see `isocline.solvers.solve`.

    Args:
        problem: what to integrate.
        stepper: the method.
        controller: the steps.
        saveat: states to keep.
        tape: listens to the steps.
        event: ends samples.
        compiled: compiles the steps.
    """
    loop = _Loop(problem, stepper, controller, saveat, tape, event, compiled)
    loop.run()
    counts, stopped = loop.finish()
    if saveat.ts is not None:
        ts = saveat.times.to(stopped.device)
    else:
        ts = end_times(problem, stopped, counts.code if event is not None else None)
    return Solution(ts, loop.recorder.states(), counts.statistics(), counts.code, stopped)
