"""Who has done what: counts of samples that each have their own clock."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.solvers.rows import select_rows
from isocline.solvers.solution import Statistics
from isocline.solvers.stepper import StepResult

__all__ = ["RUNNING", "Departures", "RoundHistory", "SampleCounts"]

RUNNING = -1
"""Status of a sample that is not done."""


class SampleCounts:
    """Per-sample bookkeeping of n samples, the rows of one table, so that a sample leaves it in one go.

    Attributes:
        rows: places in the full batch.
        code: status, or that a sample runs.
        tried: trial steps of a sample that is done. All others have tried one in every round.
        accepted: steps taken, beyond those that all samples took together.
        work: evaluations, Jacobians and factorizations beyond those that every sample makes in every round.
        at_event: whether the span ends in an event.
        level: value of the event's condition.
    """

    def __init__(self, table: Tensor, at_event: Tensor | None = None, level: Tensor | None = None) -> None:
        """Name the columns of a table, int64, shape (n, 7), which are written to."""
        self._table = table
        self.rows, self.code, self.tried, self.accepted, *self.work = table.unbind(1)
        self.at_event, self.level = at_event, level

    @classmethod
    def start(cls, code: Tensor, nfe: int, level: Tensor | None) -> SampleCounts:
        """Of samples that have done nothing but ``nfe`` evaluations each."""
        counts = cls(torch.zeros(len(code), 7, dtype=torch.int64, device=code.device), None, level)
        counts.rows.copy_(torch.arange(len(code), device=code.device))
        counts.code.copy_(code)
        counts.work[0].fill_(nfe)
        if level is not None:
            counts.at_event = torch.zeros_like(code, dtype=torch.bool)
        return counts

    def at(self, places: Tensor) -> SampleCounts:
        """Those of the samples at ``places``."""
        return SampleCounts(self._table.index_select(0, places), *select_rows((self.at_event, self.level), places))

    def add(self, past: Tensor) -> None:
        """Add what all samples did together, from `RoundHistory.until`."""
        self._table[:, 3:].add_(past)

    @classmethod
    def joined(cls, parts: Sequence[SampleCounts]) -> SampleCounts:
        """Those of several groups of samples, one after the other."""
        table = torch.cat([part._table for part in parts])
        events = [part.at_event for part in parts if part.at_event is not None]
        return cls(table, torch.cat(events) if events else None)

    def in_order(self) -> SampleCounts:
        """All samples of the batch, each at its place."""
        return SampleCounts(torch.empty_like(self._table).index_copy_(0, self.rows, self._table))

    def statistics(self) -> Statistics:
        """The counts as a solution has them."""
        nfe, jacobians, factorizations = self.work
        return Statistics(nfe, self.accepted, self.tried - self.accepted, jacobians, factorizations)


class Departures:
    """Samples that have left the batch: what they have done, when and where they stopped.

    Attributes:
        whole: whether all left at once, so that they are in the order of the batch.
    """

    def __init__(self) -> None:
        """Nobody has left."""
        self._counts: list[SampleCounts] = []
        self._t: list[Tensor] = []
        self._y: list[Tensor] = []
        self.whole = False

    def add(self, counts: SampleCounts, t: Tensor, y: Tensor) -> None:
        """These samples leave."""
        self._counts.append(counts)
        self._t.append(t)
        self._y.append(y)

    def add_all(self, counts: SampleCounts, t: Tensor, y: Tensor) -> None:
        """These are all that were left."""
        self.whole = not self._counts
        self.add(counts, t, y)

    def gathered(self) -> tuple[SampleCounts, Tensor, Tensor]:
        """Everybody, in the order of leaving."""
        if len(self._counts) == 1:
            return self._counts[0], self._t[0], self._y[0]
        return SampleCounts.joined(self._counts), torch.cat(self._t), torch.cat(self._y)


class RoundHistory:
    """What every sample has done after so many rounds; what only some of them do is in `SampleCounts`."""

    def __init__(self) -> None:
        """Nothing has happened."""
        self.accepted = [0]
        self._work: tuple[list[int], ...] = ([0], [0], [0])

    def add(self, result: StepResult) -> bool:
        """One more round; return whether all samples did the same in it."""
        self.accepted.append(self.accepted[-1])
        alike = True
        for total, work in zip(self._work, (result.nfe, result.jacobians, result.factorizations), strict=True):
            if isinstance(work, Tensor):
                alike, work = False, 0
            total.append(total[-1] + work)
        return alike

    def until(self, rounds: Tensor) -> Tensor:
        """Steps that all samples took together, evaluations, Jacobians and factorizations after ``rounds``, int64.

        Args:
            rounds: shape (n,).

        Returns:
            shape (n, 4).
        """
        return torch.tensor([self.accepted, *self._work], device=rounds.device).t().index_select(0, rounds)
