"""The loop where one clock holds for the whole batch: fixed grids, and joint control."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.solvers.event import Event, crosses, find_crossing
from isocline.solvers.finite import finite_rows
from isocline.solvers.pace import AbstractPace, GridPace, JointPace
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.saving import SharedRecorder
from isocline.solvers.solution import SaveAt, Solution, Statistics, Status
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.tape import AbstractTape, Saved, StepRecord

__all__ = ["integrate_shared"]


def integrate_shared(
    problem: AbstractProblem,
    stepper: AbstractStepper,
    pace: GridPace | JointPace,
    saveat: SaveAt,
    tape: AbstractTape | None = None,
    event: Event | None = None,
    watch: bool = False,
) -> Solution:
    """Integrate the whole batch by one clock; see `isocline.solvers.solve`.

    Args:
        problem: what to integrate.
        stepper: the method.
        pace: the clock.
        saveat: states to keep.
        tape: listens to the steps.
        event: ends the solve; for a batch of one.
        watch: check every step of a grid for states that are not finite, not only the last.
    """
    if tape is None:
        stepper = stepper.for_one_solve()
    y = problem.start
    recorder = SharedRecorder(saveat, pace.t0, pace.t1, y, listens=tape is not None)
    tally = _Tally(y)
    carry = stepper.init(problem, pace.start, y)
    tally.nfe = stepper.init_nfe
    kept = recorder.start + recorder.stay() if pace.empty else recorder.start
    if tape is not None:
        tape.start(problem, stepper, pace.start, kept)
    if pace.empty:
        return tally.solution(recorder, pace)
    tally.nfe += pace.begin(problem, stepper, carry)
    watcher = None if event is None else _EventWatcher(event, problem, pace)
    ends = False
    while not ends:
        t0, t1 = pace.propose()
        result = stepper.step(problem, t0, t1, y, carry)
        tally.count(result)
        verdict = pace.judge(result, y)
        if not verdict.accept or (watcher is not None and watcher.shortens(pace, t0, t1, result)):
            tally.rejected += 1
        else:
            recorded = recorder.step(*pace.span, result, lambda: pace.host_time, verdict.ends)
            tally.accept(result, recorded.cost, isinstance(pace, GridPace), watch)
            if tape is not None:
                tape.step(_record(problem, t0, t1, y, carry, recorded.saved, result))
            y, carry, ends = result.y1, result.carry, verdict.ends
            if verdict.jumps:
                carry = stepper.init(problem, pace.start, y)
                tally.nfe += stepper.init_nfe
        if verdict.failure is not None:
            tally.fail(torch.ones_like(tally.status, dtype=torch.bool), verdict.failure, at=pace)
            break
    tally.fail(~finite_rows(y), Status.NON_FINITE)
    if watcher is not None and watcher.found:
        tally.status = torch.where(tally.status == int(Status.SUCCESS), int(Status.EVENT), tally.status)
    return tally.solution(recorder, pace)


class _EventWatcher:
    """Looks for the event after each step, for a batch of one."""

    def __init__(self, event: Event, problem: AbstractProblem, pace: GridPace | JointPace) -> None:
        if len(problem.start) != 1:
            raise ValueError(
                f"an event under one clock needs a batch of one, not {len(problem.start)}; let each sample have its "
                "own steps: PIDController(joint=False)"
            )
        self._event, self._problem = event, problem
        self.found = False
        with torch.no_grad():
            self._before = event.evaluate(problem, pace.start, problem.start)

    def shortens(self, pace: AbstractPace, t0: Tensor, t1: Tensor, result: StepResult) -> bool:
        """Whether the step crosses the event, which then becomes the end of the span."""
        if self.found:
            return False
        with torch.no_grad():
            after = self._event.evaluate(self._problem, t1, result.y1.detach())
            before, self._before = self._before, torch.where(after == 0, self._before, after)
            if not bool(crosses(self._event, before, after)):
                return False
            if result.dense is None:
                raise ValueError("an event needs a stepper with dense output; take Tsit5 or Dopri5")
            start, end = t0.reshape(-1)[:1], t1.reshape(-1)[:1]
            place = torch.zeros(1, dtype=torch.int64, device=after.device)
            share = find_crossing(self._event, self._problem, result.dense, start, end, place, before, after)
        self.found = True
        pace.shorten(float(start + share * (end - start)))
        return True


class _Tally:
    """Statistics, and the first failure of every sample, kept on the device."""

    def __init__(self, y: Tensor) -> None:
        self.nfe: int | Tensor = 0
        self.jacobians: int | Tensor = 0
        self.factorizations: int | Tensor = 0
        self.accepted = self.rejected = 0
        self.status = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        self._step = torch.full_like(self.status, -1)
        self._ends: list[Tensor] = []

    def count(self, result: StepResult) -> None:
        """Add the work of a trial step."""
        self.nfe = self.nfe + result.nfe
        self.jacobians = self.jacobians + result.jacobians
        self.factorizations = self.factorizations + result.factorizations

    def accept(self, result: StepResult, cost: int | Tensor, on_grid: bool, watch: bool) -> None:
        """Note a step that is taken, and what its dense output cost; on a grid, samples may fail in it."""
        self.accepted += 1
        self.nfe = self.nfe + cost
        if on_grid and result.failed is not None:
            self.fail(result.failed, Status.STEP_FAILED)
        if on_grid and watch:
            self.fail(~finite_rows(result.y1), Status.NON_FINITE)

    def fail(self, failed: Tensor, status: Status, at: AbstractPace | None = None) -> None:
        """Note samples that fail in the present step, unless they have failed before."""
        first = failed & (self.status == 0)
        self.status = torch.where(first, int(status), self.status)
        self._step = torch.where(first, self.accepted - (at is None), self._step)

    def solution(self, recorder: SharedRecorder, pace: GridPace | JointPace) -> Solution:
        """Gather everything."""
        device = self.status.device
        accepted = torch.where(self._step < 0, self.accepted, self._step)

        def spread(count: int | Tensor) -> Tensor:
            return count if isinstance(count, Tensor) else torch.full_like(accepted, count)

        stats = Statistics(
            spread(self.nfe),
            accepted,
            spread(self.rejected),
            spread(self.jacobians),
            spread(self.factorizations),
        )
        stopped = pace.stopped(self._step).to(device)
        return Solution(recorder.ts().to(device), recorder.states(), stats, self.status, stopped)


def _record(
    problem: AbstractProblem,
    t0: Tensor,
    t1: Tensor,
    y: Tensor,
    carry: Any,
    saved: tuple[Saved, ...],
    result: StepResult,
) -> StepRecord:
    return StepRecord(problem, None, t0, t1, y, carry, None, saved, result.dense)
