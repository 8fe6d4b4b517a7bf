"""Divergence that stays finite: a loss far above its running level for several points of the training curve."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

__all__ = ["DivergedLossError", "DivergenceRule", "DivergenceWarning"]

Rows = Sequence[Mapping[str, float]]


class DivergedLossError(ValueError):
    """The loss is finite, but the run has diverged."""


class DivergenceWarning(RuntimeWarning):
    """The loss rose far above its level; the run goes on."""


@dataclass(frozen=True)
class DivergenceRule:
    """When a rise of the loss is a divergence.

    A rise counts when *each* of the last ``points`` points, every one the mean of a window of steps, stands above the
    level by more than ``factor`` times its size: one bad batch never does. Against the usual level, the median of all
    earlier points, the run is stopped; against the lowest level that it ever held there is a warning, since a loss
    may start from nothing for good reasons (a student that is its teacher at first). A curriculum of ever shorter
    intervals raises a loss by much less. The size of a level is its absolute value, or the median step from one
    point to the next if that is larger: a loss may be negative or cross zero.

    Attributes:
        points: how many in a row.
        settle: earlier points without which there is no level.
        factor: sizes of the level that a loss must stand above it.
    """

    points: int = 3
    settle: int = 8
    factor: float = 30.0

    def check(self, rows: Rows) -> None:
        """Judge the training curve up to its last point.

        Args:
            rows: points with ``step``, ``lr``, ``loss`` and the loss terms by name.

        Raises:
            DivergedLossError: if the loss left its usual level; names the steps, the term that rose most, the cure.

        Warns:
            DivergenceWarning: when it first left the lowest level that it had.
        """
        usual, lowest = self._rises(rows, "loss")
        if usual > self.factor:
            raise DivergedLossError(f"the run has diverged: {self._message(rows, usual, 'usual')}")
        if lowest > self.factor and self._rises(rows[:-1], "loss")[1] <= self.factor:
            warnings.warn(f"the run may diverge: {self._message(rows, lowest, 'lowest')}", DivergenceWarning, 2)

    def _rises(self, rows: Rows, name: str) -> tuple[float, float]:
        """How far the last points stand above the usual and the lowest level, in sizes of the level; 0 if unknown."""
        earlier = [row[name] for row in rows[: -self.points] if name in row]
        latest = [row[name] for row in rows[-self.points :] if name in row]
        if len(earlier) < self.settle or len(latest) < self.points:
            return 0.0, 0.0
        usual = median(earlier)
        lowest = min(max(earlier[i : i + self.points]) for i in range(len(earlier) - self.points + 1))
        step = median(abs(after - before) for before, after in pairwise(earlier))

        def rise(level: float) -> float:
            size = max(abs(level), step)
            return (min(latest) - level) / size if size > 0 else 0.0

        return rise(usual), rise(lowest)

    def _message(self, rows: Rows, rise: float, level: str) -> str:
        first, last = rows[-self.points], rows[-1]
        rises = {name: max(self._rises(rows, name)) for name in last if name not in ("step", "lr", "loss")}
        worst = max(rises, key=lambda name: rises[name], default="")
        blamed = f"above all its term {worst}, now {last[worst]:.3g}; " if worst and rises[worst] > self.factor else ""
        return (
            f"from step {first['step']:.0f} to step {last['step']:.0f} the loss stayed {rise:.0f} times its {level} "
            f"level above it, now {last['loss']:.3g}; {blamed}"
            "lower optimizer.lr or trainer.gradient_clip, or lengthen trainer.warmup"
        )
