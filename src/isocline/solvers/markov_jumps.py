"""What exact simulation of Markov chains shares: samples that each follow their own jumps, and the path they leave.

A step of such a stepper is exact whatever its length: it makes as many jumps as fall into it. One step
(``ConstantSteps(1)``) is therefore enough; a finer grid, or `isocline.solvers.SaveAt` with times, only shows states on
the way, at no further cost.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.markov import markov_problem
from isocline.solvers.problem import AbstractProblem, MarkovProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AbstractJumpStepper", "Jump", "JumpInterpolant", "Walk", "exponentials"]


class Jump(NamedTuple):
    """What happens next to n samples; every tensor has shape (n,).

    Attributes:
        time: when, float64; of no meaning for samples that are done.
        happens: whether a position jumps then (a candidate may be turned down), bool.
        place: the position, int64.
        symbol: where it jumps to, int64.
        done: nothing more happens before the end of the step, bool.
        failed: the rates were no rates, bool.
    """

    time: Tensor
    happens: Tensor
    place: Tensor
    symbol: Tensor
    done: Tensor
    failed: Tensor


class Walk:
    """The samples within a step, each at its own time.

    Attributes:
        problem: the chain.
        t: where each sample is, float64, shape (B,).
        end: the end of the step, likewise.
        sign: direction of time, 1 or -1, likewise.
        z: tokens, int64, shape (B, L).
        nfe: evaluations made for each sample, int64, shape (B,).
        failed: samples that stopped, bool, shape (B,).
    """

    def __init__(self, problem: MarkovProblem, t0: Tensor, t1: Tensor, z: Tensor) -> None:
        """Start every sample at the start of the step."""
        self.problem = problem
        self.t, self.end = t0.expand(len(z)).clone(), t1.expand(len(z))
        self.sign = torch.where(self.end >= self.t, 1.0, -1.0).to(torch.float64)
        self.z = z.clone()
        self.nfe = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        self.failed = torch.zeros_like(self.nfe, dtype=torch.bool)

    def evaluate(self, rows: Tensor, t: Tensor) -> Tensor:
        """The problem's rates for some samples at their present tokens; counted.

        Args:
            rows: increasing, int64, shape (n,).
            t: times, shape (n,).

        Returns:
            shape (n, L, V), float64.
        """
        self.nfe[rows] += 1
        return self.ask(lambda problem, time, z: problem.evaluate(time, z), rows, t).double()

    def ask(self, function: Callable[[MarkovProblem, Tensor, Tensor], Tensor], rows: Tensor, t: Tensor) -> Tensor:
        """Call ``function(problem, t, z)`` for some samples; for all, and the rest dropped, if they are inseparable."""
        if len(rows) == len(self.z):
            return function(self.problem, t, self.z)
        if self.problem.separable:
            return function(self.problem.at_rows(rows), t, self.z[rows])
        return function(self.problem, self.t.index_copy(0, rows, t), self.z)[rows]


class AbstractJumpStepper(AbstractStepper):
    """Follows every jump of every sample; a subclass draws the next one.

    Samples that are done cost nothing while others go on, if the problem is separable. A sample whose rates are not
    rates, or that jumps more than ``max_jumps`` times in a step, stops, and its status says so.

    Attributes:
        max_jumps: rounds that a step may take.
    """

    order = math.inf

    max_jumps: int

    def begin(self, walk: Walk, carry: Any) -> Any:
        """What `jump` may change in place; from the carry of the step before."""
        return None

    def finish(self, memory: Any) -> Any:
        """The carry of the next step."""
        return None

    @abstractmethod
    def jump(self, walk: Walk, rows: Tensor, memory: Any) -> Jump:
        """Draw what happens next.

        Args:
            walk: all samples.
            rows: those that go on, int64, shape (n,).
            memory: from `begin`.
        """

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Follow every sample to the end of the step; see the base class.

        Raises:
            TypeError: if the problem is not a `MarkovProblem`.
        """
        walk = Walk(markov_problem(self, problem), t0, t1, y0)
        memory = self.begin(walk, carry)
        path = JumpInterpolant(y0, t0, t1)
        rows = torch.nonzero(walk.t != walk.end).flatten()
        rounds = 0
        while len(rows):
            if rounds == self.max_jumps:
                walk.failed[rows] = True
                break
            jump = self.jump(walk, rows, memory)
            walk.failed[rows] = jump.failed
            moves = jump.happens & ~jump.failed
            moved, place, symbol = rows[moves], jump.place[moves], jump.symbol[moves]
            walk.t[rows] = torch.where(jump.done | jump.failed, walk.t[rows], jump.time)
            walk.z[moved, place] = symbol
            path.append(moved, jump.time[moves], place, symbol)
            rows = rows[~(jump.done | jump.failed)]
            rounds += 1
        return StepResult(walk.z, carry=self.finish(memory), nfe=walk.nfe, dense=path, failed=walk.failed)


class JumpInterpolant(AbstractInterpolant):
    """The path within a step: constant between jumps, exact at every time, free."""

    def __init__(self, z: Tensor, t0: Tensor, t1: Tensor) -> None:
        """Start with a path without jumps.

        Args:
            z: tokens at the start, int64, shape (B, L).
            t0: start of the step, float64, shape () or (B,).
            t1: its end, likewise.
        """
        self._z = z
        self._t0, self._dt = t0.expand(len(z)), (t1 - t0).expand(len(z))
        self._rounds: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def append(self, rows: Tensor, time: Tensor, place: Tensor, symbol: Tensor) -> None:
        """Add one jump of each of the samples ``rows``, later than their jumps before."""
        if len(rows):
            share = (time - self._t0[rows]) / self._dt[rows]
            self._rounds.append((rows, share, place, symbol))

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """The tokens at the times asked for; see the base class."""
        asked = torch.arange(len(self._z), device=self._z.device) if rows is None else rows
        theta = theta.expand(len(asked))
        z = self._z[asked]
        for jumped, share, place, symbol in self._rounds:
            # Where each sample's jump of this round stands in the list; -1 for none.
            entry = torch.full_like(self._z[:, 0], -1)
            entry[jumped] = torch.arange(len(jumped), device=z.device)
            found = entry[asked]
            past = torch.nonzero((found >= 0) & (share[found] <= theta)).flatten()
            z[past, place[found[past]]] = symbol[found[past]]
        return z


def exponentials(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Waiting times of rate one, float64, shape (count,), never infinite."""
    return -torch.log1p(-torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)).to(
        device
    )
