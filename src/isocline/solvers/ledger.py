"""Who has done what: counts of samples that each have their own clock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.solvers.rows import select_rows
from isocline.solvers.stepper import StepResult

__all__ = ["RUNNING", "PastRounds", "RoundHistory", "SampleCounts"]

RUNNING = -1
"""Status of a sample that is not done."""


@dataclass(slots=True)
class SampleCounts:
    """Per-sample bookkeeping of the samples in the batch, shape (n,) each.

    Attributes:
        rows: places in the full batch.
        code: status, or that a sample runs.
        tried: trial steps of a sample that is done. All others have tried one in every round.
        accepted: steps taken, beyond those that all samples took together.
        work: evaluations, Jacobians and factorizations beyond those that every sample makes in every round.
        at_event: whether the span ends in an event.
        level: value of the event's condition.
    """

    rows: Tensor
    code: Tensor
    tried: Tensor
    accepted: Tensor
    work: tuple[Tensor, ...]
    at_event: Tensor | None
    level: Tensor | None

    def keep(self, places: Tensor) -> None:
        """Only the samples at ``places``."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, select_rows(getattr(self, field.name), places))


class PastRounds(NamedTuple):
    """Steps that all samples took together, and evaluations, Jacobians and factorizations; shape (n,) each."""

    accepted: Tensor
    work: tuple[Tensor, ...]


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

    def until(self, rounds: Tensor) -> PastRounds:
        """The counts after ``rounds``, int64, shape (n,)."""

        def at(counts: list[int]) -> Tensor:
            return torch.tensor(counts, device=rounds.device)[rounds]

        return PastRounds(at(self.accepted), tuple(at(work) for work in self._work))
