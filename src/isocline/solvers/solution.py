"""What a solve returns: saved states, per-sample statistics and per-sample status."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SaveAt", "Solution", "SolverError", "Statistics", "Status"]


class Status(enum.IntEnum):
    """How the integration of one sample ended."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_TOO_SMALL = 2
    NON_FINITE = 3
    STEP_FAILED = 4
    EVENT = 5

    @property
    def explanation(self) -> str:
        """What happened, and the cure."""
        return {
            Status.SUCCESS: "reached the end of the span",
            Status.MAX_STEPS: "used up max_steps; raise max_steps, loosen rtol and atol, or take a stiff stepper",
            Status.STEP_TOO_SMALL: "needed a step below dt_min; loosen rtol and atol, or look for a singularity there",
            Status.NON_FINITE: "met a state or slope that is not finite; check the field, or take smaller steps",
            Status.STEP_FAILED: "took a step that the stepper itself declared invalid (a probability above one, "
            "Newton's iteration did not converge); take smaller steps",
            Status.EVENT: "reached the event",
        }[self]


class SolverError(RuntimeError):
    """A sample did not reach the end of its span."""


@dataclass(frozen=True)
class SaveAt:
    """Which states to keep. The default is the end of the span only.

    Attributes:
        ts: times within the span, in any order; states there come from the stepper's dense output (exactly the grid's
            state where a time is a grid point).
        steps: True keeps every point of a fixed grid or of joint control, the start included.

    Raises:
        ValueError: if both are asked for, or ``ts`` is not one-dimensional, finite and non-empty.
    """

    ts: Tensor | Sequence[float] | None = None
    steps: bool = False

    def __post_init__(self) -> None:
        if self.ts is None:
            return
        if self.steps:
            raise ValueError("SaveAt got ts and steps=True; choose one")
        times = self.times
        if times.ndim != 1 or times.numel() == 0 or not bool(times.isfinite().all()):
            raise ValueError(f"SaveAt.ts={self.ts!r}; expected a non-empty list of finite times")

    @property
    def times(self) -> Tensor:
        """``ts`` as float64 on the CPU, shape (K,)."""
        return torch.as_tensor(self.ts, dtype=torch.float64, device="cpu").detach()


@dataclass(frozen=True)
class Statistics:
    """Work per sample, each int64 of shape (B,).

    Attributes:
        nfe: function evaluations: network forwards for this sample.
        accepted: steps taken.
        rejected: trial steps thrown away.
        jacobians: Jacobians evaluated (by implicit steppers).
        factorizations: matrices factorized (by implicit steppers).
    """

    nfe: Tensor
    accepted: Tensor
    rejected: Tensor
    jacobians: Tensor
    factorizations: Tensor


@dataclass(frozen=True)
class Solution:
    """Result of `isocline.solvers.solve`.

    Attributes:
        ts: save times, float64, shape (K,), or (K, B) where each sample has its own span, or its own end by an event.
        ys: states, shape (K, B, *event); NaN at times that a failed sample did not reach.
        stats: work per sample.
        status: `Status` per sample, int64, shape (B,).
        stopped_at: where each sample's integration ended, float64, shape (B,): ``t1``, or the time of its event.
    """

    ts: Tensor
    ys: Tensor
    stats: Statistics
    status: Tensor
    stopped_at: Tensor

    @property
    def final(self) -> Tensor:
        """The last saved state, shape (B, *event)."""
        return self.ys[-1]

    @property
    def succeeded(self) -> Tensor:
        """Which samples reached the end or an event, bool, shape (B,)."""
        return (self.status == int(Status.SUCCESS)) | (self.status == int(Status.EVENT))

    def raise_on_failure(self) -> Solution:
        """Return the solution itself if every sample succeeded.

        Raises:
            SolverError: naming sample, time, step, reason and cure for the first samples that failed.
        """
        failed = torch.nonzero(~self.succeeded).flatten().tolist()
        if not failed:
            return self
        lines = []
        for sample in failed[:5]:
            steps = int(self.stats.accepted[sample])
            tried = steps + int(self.stats.rejected[sample])
            reason = Status(int(self.status[sample])).explanation
            time = float(self.stopped_at[sample])
            lines.append(f"sample {sample} at t={time:.6g} after {steps} steps ({tried} tried): {reason}")
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise SolverError(f"{len(failed)} of {len(self.status)} samples failed: " + "; ".join(lines) + more)
