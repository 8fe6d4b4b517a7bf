"""Who has done what: counts of samples that each have their own clock."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.solvers.rows import select_rows
from isocline.solvers.solution import Statistics
from isocline.solvers.stepper import StepResult

__all__ = ["RUNNING", "RoundHistory", "SampleCounts"]

RUNNING = -1
"""Status of a sample that is not done."""


class SampleCounts:
    """Per-sample bookkeeping of n samples, rows of one table, so that samples leave it and enter another in one go.

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
        """Name the rows of a table, int64, shape (7, n), which are written to."""
        self._table = table
        self.rows, self.code, self.tried, self.accepted, *self.work = table.unbind(0)
        self.at_event, self.level = at_event, level

    @classmethod
    def start(cls, code: Tensor, nfe: int, level: Tensor | None) -> SampleCounts:
        """Of samples that have done nothing but ``nfe`` evaluations each."""
        counts = cls(torch.zeros(7, len(code), dtype=torch.int64, device=code.device), None, level)
        torch.arange(len(code), out=counts.rows)
        counts.code.copy_(code)
        counts.work[0].fill_(nfe)
        if level is not None:
            counts.at_event = torch.zeros_like(code, dtype=torch.bool)
        return counts

    def at(self, places: Tensor) -> SampleCounts:
        """Those of the samples at ``places``."""
        return SampleCounts(self._table.index_select(1, places), *select_rows((self.at_event, self.level), places))

    def add(self, past: Tensor) -> None:
        """Add what all samples did together, from `RoundHistory.until`."""
        self._table[3:].add_(past)

    def store(self, part: SampleCounts) -> None:
        """Take over the rows of some samples, each at its place in the full batch."""
        self._table.index_copy_(1, part.rows, part._table)

    def statistics(self) -> Statistics:
        """The counts as a solution has them."""
        nfe, jacobians, factorizations = self.work
        return Statistics(nfe, self.accepted, self.tried - self.accepted, jacobians, factorizations)


class RoundHistory:
    """What every sample has done after so many rounds; what only some of them do is in `SampleCounts`."""

    def __init__(self) -> None:
        """Nothing has happened."""
        self.accepted = [0]
        self._work: tuple[list[int], ...] = ([0], [0], [0])

    def add(self, result: StepResult) -> None:
        """One more round."""
        self.accepted.append(self.accepted[-1])
        for total, work in zip(self._work, (result.nfe, result.jacobians, result.factorizations), strict=True):
            total.append(total[-1] + (0 if isinstance(work, Tensor) else work))

    def until(self, rounds: Tensor) -> Tensor:
        """Steps that all samples took together, evaluations, Jacobians and factorizations after ``rounds``, int64.

        Args:
            rounds: shape (n,).

        Returns:
            shape (4, n).
        """
        return torch.tensor([self.accepted, *self._work], device=rounds.device).index_select(1, rounds)
