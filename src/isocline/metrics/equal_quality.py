"""How many function evaluations buy a given quality, with an interval: where a curve over NFE stays below a bar.

No torch: the report asks the same question across models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isocline.metrics.uncertainty import Difference, Estimate, paired_difference

__all__ = ["Level", "Needed", "needed_nfe", "ratio"]


@dataclass(frozen=True)
class Level:
    """A statistic of all samples, and of all but one group, for each group.

    Attributes:
        whole: of all.
        left_out: without group g, up to an offset that all groups share.
    """

    whole: float
    left_out: tuple[float, ...]

    @classmethod
    def of(cls, reading: Mapping[str, Any]) -> Level:
        """Read back what `isocline.metrics.jackknife.Jackknifed.as_dict` holds: ``mean`` and ``values``."""
        whole, values = float(reading["mean"]), reading["values"]
        return cls(whole, tuple(whole - (value - whole) / (len(values) - 1) for value in values))

    def times(self, factor: float) -> Level:
        """Scale it."""
        return Level(self.whole * factor, tuple(value * factor for value in self.left_out))


@dataclass(frozen=True)
class Needed:
    """The evaluations that a quality takes.

    Attributes:
        nfe: the estimate.
        logarithm: of it, with the jackknife's standard error; n is the number of groups.
        values: one value of the logarithm for each group, of the same mean and standard error.
        at_most: whether the smallest budget was already enough, so that fewer may do.
        open_above: whether without some group no budget was enough, so that the interval's upper end is a lower bound.
    """

    nfe: float
    logarithm: Estimate
    values: tuple[float, ...]
    at_most: bool
    open_above: bool

    def as_dict(self) -> dict[str, Any]:
        """Return mean, standard error, 95 % interval and the logarithms by group, as the metrics files hold them."""
        low, high = (math.exp(end) for end in self.logarithm.interval())
        return {
            "mean": self.nfe,
            "se": self.nfe * (self.logarithm.se or 0.0),
            "low": low,
            "high": high,
            "n": self.logarithm.n,
            "at_most": self.at_most,
            "open_above": self.open_above,
            "values": list(self.values),
        }


def needed_nfe(budgets: Sequence[float], curve: Sequence[Level], bar: Level) -> Needed | None:
    """Find the NFE from which on a curve is at or below a bar at every larger budget.

    Between the last budget above the bar and the next one, the excess is interpolated linearly in the logarithm of the
    NFE. The standard error is the jackknife's: the same with each group of samples left out, of curve and bar alike.

    Args:
        budgets: evaluations, rising.
        curve: a statistic at each, the smaller the better.
        bar: what it has to reach.

    Returns:
        The need, or None if the largest budget is not enough.

    Raises:
        ValueError: if budgets are not rising or positive, or curve and bar do not have the same groups.
    """
    if list(budgets) != sorted(set(budgets)) or not budgets or budgets[0] <= 0 or len(curve) != len(budgets):
        raise ValueError(f"budgets {list(budgets)}: need rising positive numbers, one for each of {len(curve)} levels")
    groups = len(bar.left_out)
    if groups < 2 or any(len(level.left_out) != groups for level in curve):
        raise ValueError("curve and bar need the same groups, at least 2; measure both on the same samples")
    logs = [math.log(budget) for budget in budgets]
    whole = _crossing(logs, [level.whole - bar.whole for level in curve])
    if whole is None:
        return None
    parts = [
        _crossing(logs, [level.left_out[group] - bar.left_out[group] for level in curve]) for group in range(groups)
    ]
    filled = [logs[-1] if part is None else part for part in parts]
    centre = math.fsum(filled) / groups
    values = tuple(whole + (groups - 1) * (centre - part) for part in filled)
    spread = Estimate.from_values(values)
    logarithm = Estimate(whole, spread.sd, spread.se, groups)
    return Needed(math.exp(whole), logarithm, values, whole == logs[0], any(part is None for part in parts))


def _crossing(logs: Sequence[float], excess: Sequence[float]) -> float | None:
    """Where an excess falls to 0 for good."""
    above = [index for index, value in enumerate(excess) if value > 0]
    if not above:
        return logs[0]
    last = above[-1]
    if last == len(logs) - 1:
        return None
    share = excess[last] / (excess[last] - excess[last + 1])
    return logs[last] + share * (logs[last + 1] - logs[last])


def ratio(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Return a/b of two needs from their ``values``, with its 95 % interval, paired over the groups."""
    found = paired_difference(a, b)
    mean, low, high = (math.exp(value) for value in (found.mean, found.low, found.high))
    return Difference(mean, low, high, found.degrees, found.confidence, found.paired)
