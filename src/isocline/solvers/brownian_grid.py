"""A Brownian path drawn on a grid, interval after interval, and refined inside each by a virtual tree."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from isocline.solvers.brownian import (
    AbstractBrownian,
    BrownianIncrement,
    BrownianPoint,
    accumulate,
    sample_keys,
    tree_weights,
)
from isocline.solvers.kept import kept
from isocline.solvers.splitmix import combine, mix64, normal_pair

__all__ = ["BrownianGrid"]

# A time this near to one of the grid's, in shares of the interval, is that one: grids are rounded in different ways.
_SNAP = 1e-9


@dataclass(frozen=True)
class BrownianGrid(AbstractBrownian):
    """A Brownian path that is a function of (seed, sample, t), cheap on the steps of one grid.

    Every interval of the grid has its own pair of normal numbers, a hash of its address, and is refined by its own
    virtual tree. A step over one interval makes that pair and nothing else, in any order of asking; a time elsewhere
    costs a pair for each interval before it, and a tree's walk. So: the noise for fixed grids whose path is needed
    again, states between steps included; for adaptive steps and random times, `VirtualBrownianTree`.

    The path of a sample depends on nothing but the seed, the grid and the sample's index. It is not that of a
    `VirtualBrownianTree` of the same seed: that path's value at the end of one step is a sum over all levels.

    Attributes:
        seed: any integer.
        times: of the grid, increasing, two or more; W is zero at the first.
        depth: halvings of an interval, for times inside.
        samples: global index of every sample, int64, shape (B,); by default its place in the batch.

    Raises:
        ValueError: if ``times`` does not increase or is not finite, or ``depth`` is out of range.

    Source: as `VirtualBrownianTree`.
    """

    seed: int
    times: tuple[float, ...]
    depth: int = 16
    samples: Tensor | None = None

    repeatable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        pairs = zip(self.times, self.times[1:], strict=False)
        if len(self.times) < 2 or not all(math.isfinite(late) and early < late for early, late in pairs):
            raise ValueError(f"times={self.times}; expected two or more finite times that increase, also backward")
        if not 0 <= self.depth <= 48:
            raise ValueError(f"depth={self.depth}; expected 0 to 48")

    @classmethod
    def uniform(cls, seed: int, t0: float, t1: float, steps: int) -> BrownianGrid:
        """The path for equal steps from t0 to t1, ``t0 < t1``."""
        return cls(seed, (*(t0 + (t1 - t0) * step / steps for step in range(steps)), t1))

    def covers(self, t0: Tensor, t1: Tensor) -> bool:
        """Whether both lie between the first and the last time."""
        return all(
            self.times[0] <= float(end) <= self.times[-1] for time in (t0, t1) for end in (time.min(), time.max())
        )

    def at_rows(self, rows: Tensor) -> BrownianGrid:
        """The paths of some samples; see the base class."""
        return replace(self, samples=rows if self.samples is None else self.samples[rows])

    @torch.no_grad()
    def step(self, t0: Tensor, t1: Tensor, y: Tensor, memory: Any, area: bool) -> tuple[BrownianIncrement, Any]:
        """The increment over a step; see the base class."""
        if t0.ndim == t1.ndim == 0:
            (first, inside), (last, beyond) = (self._place(float(t)) for t in (t0, t1))
            if inside == beyond == 0 and abs(first - last) == 1:
                w, mean = self._interval(min(first, last), y, area)
                return BrownianIncrement(w.neg_() if last < first else w, mean), None
        here, there = self.at(t0, y), self.at(t1, y)
        w = (there.w - here.w).to(y.dtype)
        if not area:
            return BrownianIncrement(w), None
        dt = (t1 - t0).detach().reshape(-1, *[1] * (y.ndim - 1)).to(y.device)
        mean = (there.area - here.area) / torch.where(dt == 0, 1.0, dt)
        return BrownianIncrement(w, torch.where(dt == 0, 0.0, mean - (here.w + there.w) / 2).to(y.dtype)), None

    @torch.no_grad()
    def at(self, t: Tensor, y: Tensor) -> BrownianPoint:
        """The path and its integral at a time; see `VirtualBrownianTree.at`."""
        found = [self._place(time) for time in t.detach().double().reshape(-1).tolist()]
        keys = self._keys(y)
        places = torch.tensor([place for place, _ in found], device=y.device)[:, None]
        shares = torch.tensor([share for _, share in found], dtype=torch.float64, device=y.device)
        w = torch.zeros(keys.shape, dtype=torch.float64, device=y.device)
        area = torch.zeros_like(w)
        for index in range(int(places.max())):
            z, n = normal_pair(mix64(keys ^ _address(index, y.device)))
            length = self.times[index + 1] - self.times[index]
            rise, before = z * math.sqrt(length), index < places
            whole = (w + rise / 2).add_(n, alpha=math.sqrt(length / 12)).mul_(length)
            w, area = w + torch.where(before, rise, 0.0), area + torch.where(before, whole, 0.0)
        lengths = [*(late - early for early, late in zip(self.times, self.times[1:], strict=False)), 0.0]
        span = torch.tensor(lengths, dtype=torch.float64, device=y.device)[places]
        # A path over an interval of length one, brought to size.
        inner_w, inner_area = torch.zeros_like(w), torch.zeros_like(w)
        accumulate(
            tree_weights(shares, self.depth, 1.0), keys ^ combine(torch.zeros_like(places), places), inner_w, inner_area
        )
        area = area + shares[:, None] * span * w + span**1.5 * inner_area
        return BrownianPoint((w + span.sqrt() * inner_w).reshape(y.shape), area.reshape(y.shape))

    def _place(self, t: float) -> tuple[int, float]:
        """The interval that a time lies in, and how far; outside of the grid the share is NaN."""
        index = min(max(bisect.bisect_right(self.times, t) - 1, 0), len(self.times) - 2)
        share = (t - self.times[index]) / (self.times[index + 1] - self.times[index])
        if abs(share) <= _SNAP:
            return index, 0.0
        if abs(share - 1) <= _SNAP:
            return index + 1, 0.0
        return index, share if 0 < share < 1 else math.nan

    def _interval(self, index: int, y: Tensor, area: bool) -> tuple[Tensor, Tensor | None]:
        z, n = normal_pair(mix64(self._keys(y) ^ _address(index, y.device)))
        length = self.times[index + 1] - self.times[index]
        w = z.mul_(math.sqrt(length)).reshape(y.shape).to(y.dtype)
        return w, n.mul_(math.sqrt(length / 12)).reshape(y.shape).to(y.dtype) if area else None

    def _keys(self, y: Tensor) -> Tensor:
        if self.samples is None:
            return _shared_keys(self.seed, len(y), y[0].numel(), y.dtype, y.device)
        return sample_keys(self.seed, self.samples, y)


@kept(maxsize=4)
def _shared_keys(seed: int, count: int, elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return sample_keys(seed, None, torch.empty(count, elements, dtype=dtype, device=device))


def _address(index: int, device: torch.device) -> Tensor:
    """Of an interval, hashed; its pair is that of the root of its tree, whose own address is hashed to zero."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    return combine(zero, zero + index)
