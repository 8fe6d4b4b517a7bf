"""How far a solve in lower precision drifts from the same solve in double precision, with the same field and grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.metrics.uncertainty import Estimate
from isocline.solvers import AbstractStepper, FixedGrid, ODEProblem, SaveAt, VectorField, solve

__all__ = ["PrecisionGrowth", "PrecisionRow", "PrecisionRun", "measure_precision"]


@dataclass(frozen=True)
class PrecisionRun:
    """One way of computing a solution.

    Attributes:
        name: for tables.
        field: with its weights and arithmetic in this precision.
        dtype: of the state, and hence of the sums that the stepper forms.
    """

    name: str
    field: VectorField
    dtype: torch.dtype


class PrecisionRow(NamedTuple):
    """One time.

    Attributes:
        t: time.
        difference: root mean square over components, relative to the solution's, averaged over samples.
        in_roundoffs: the same in units of the state's unit roundoff.
        bound: ``exp(∫ μ₂ dt)`` where it was given: what one roundoff at the start can have grown to.
    """

    t: float
    difference: Estimate
    in_roundoffs: Estimate
    bound: Estimate | None


@dataclass(frozen=True, eq=False)
class PrecisionGrowth:
    """Differences of one run from the reference.

    Attributes:
        name: of the run.
        ts: times, float64, shape (K,).
        differences: relative, float64, shape (K, B); at the first time what rounding the start costs.
        roundoff: unit roundoff of the state's dtype.
    """

    name: str
    ts: Tensor
    differences: Tensor
    roundoff: float

    @property
    def amplification(self) -> Tensor:
        """Differences in units of the roundoff, shape (K, B)."""
        return self.differences / self.roundoff

    def rows(self, growth: Tensor | None = None) -> list[PrecisionRow]:
        """One row per time.

        Args:
            growth: `isocline.dynamics.lipschitz.LipschitzEstimate.growth` at the same times, shape (K, B).

        Raises:
            ValueError: if a run left the finite numbers.
        """
        return [
            PrecisionRow(
                float(t),
                Estimate.from_values(self.differences[index].tolist()),
                Estimate.from_values(self.amplification[index].tolist()),
                None if growth is None else Estimate.from_values(growth[index].tolist()),
            )
            for index, t in enumerate(self.ts)
        ]


def measure_precision(
    runs: Sequence[PrecisionRun],
    reference: VectorField,
    x0: Tensor,
    ts: Sequence[float] | Tensor,
    stepper: AbstractStepper,
    cond: Any = None,
    *,
    substeps: int = 1,
) -> list[PrecisionGrowth]:
    """Solve on one grid in every precision; the method's own error is the same in all and cancels.

    Args:
        runs: precisions to compare.
        reference: the field in float64.
        x0: start, shape (B, *event); each run rounds it to its own dtype.
        ts: times at which to compare, strictly monotone.
        stepper: a method for fixed steps.
        cond: handed to the fields.
        substeps: steps between two times.

    Raises:
        ValueError: if ``substeps`` is below one, or ``ts`` is not monotone.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), chapters 1 and 17.
    """
    if substeps < 1:
        raise ValueError(f"substeps={substeps}; expected at least one")
    times = torch.as_tensor(ts, dtype=torch.float64, device="cpu")
    share = torch.arange(substeps, dtype=torch.float64) / substeps
    inner = times[:-1, None] + times.diff()[:, None] * share
    grid = FixedGrid(torch.cat([inner.flatten(), times[-1:]]))

    def states(field: VectorField, dtype: torch.dtype) -> Tensor:
        problem = ODEProblem(field, x0.to(dtype), float(times[0]), float(times[-1]), cond)
        return solve(problem, stepper, grid, SaveAt(times)).ys.double().flatten(2)

    with torch.no_grad():
        exact = states(reference, torch.float64)
        size = exact.square().mean(-1).sqrt()
        size = torch.where(size > 0, size, 1.0)
        found = []
        for run in runs:
            apart = (states(run.field, run.dtype) - exact).square().mean(-1).sqrt() / size
            found.append(PrecisionGrowth(run.name, times, apart.cpu(), torch.finfo(run.dtype).eps / 2))
    return found
