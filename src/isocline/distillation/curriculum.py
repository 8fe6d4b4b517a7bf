"""In how many intervals a flow is cut as training goes on: few at first, so that what is learnt travels fast."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

__all__ = ["AbstractCurriculum", "ConstantCurriculum", "DoublingCurriculum", "SquareRootCurriculum"]


class AbstractCurriculum(ABC):
    """``curriculum(step) -> N``: in how many intervals the flow is cut after so many optimiser steps.

    Papers count the N + 1 ends of the intervals; here the intervals themselves are counted.
    """

    @abstractmethod
    def __call__(self, step: int) -> int:
        """Return N ≥ 1."""


class ConstantCurriculum(AbstractCurriculum):
    """The same number of intervals throughout.

    Args:
        intervals: N.

    Raises:
        ValueError: if it is below 1.
    """

    def __init__(self, intervals: int = 18) -> None:
        if intervals < 1:
            raise ValueError(f"intervals={intervals} must be at least 1")
        self.intervals = intervals

    def __call__(self, step: int) -> int:
        """Return N."""
        return self.intervals


class SquareRootCurriculum(AbstractCurriculum):
    """N(k) = ⌈√(k/K ((last + 1)² − first²) + first²)⌉ − 1, that is first − 1 at step 0 and last at step K.

    Source: *Consistency Models*, Song et al., 2023, App. C, where N + 1 is called N, first s_0 and last s_1.

    Args:
        first: s_0, one more than the intervals at step 0.
        last: s_1, intervals at the end.
        steps: K, optimiser steps of the whole run.

    Raises:
        ValueError: unless 2 <= first <= last and steps >= 1.
    """

    def __init__(self, first: int = 2, last: int = 150, steps: int = 1000) -> None:
        if not (2 <= first <= last and steps >= 1):
            raise ValueError(f"first={first}, last={last}, steps={steps} must satisfy 2 <= first <= last, steps >= 1")
        self.first, self.last, self.steps = first, last, steps

    def __call__(self, step: int) -> int:
        """Return N(step)."""
        # In integers, so that no rounding moves a step to the next interval.
        square = min(step, self.steps) * ((self.last + 1) ** 2 - self.first**2)
        wanted = -(-square // self.steps) + self.first**2
        return math.isqrt(wanted - 1)


class DoublingCurriculum(AbstractCurriculum):
    """N(k) = min(first · 2^⌊k/K'⌋, last), K' = ⌊steps / (⌊log₂(last/first)⌋ + 1)⌋.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, §3.4.

    Args:
        first: intervals at step 0.
        last: intervals at the end.
        steps: optimiser steps of the whole run.

    Raises:
        ValueError: unless 1 <= first <= last and steps >= 1.
    """

    def __init__(self, first: int = 8, last: int = 64, steps: int = 1000) -> None:
        if not (1 <= first <= last and steps >= 1):
            raise ValueError(f"first={first}, last={last}, steps={steps} must satisfy 1 <= first <= last, steps >= 1")
        self.first, self.last = first, last
        self.period = max(1, steps // (int(math.log2(last / first)) + 1))

    def __call__(self, step: int) -> int:
        """Return N(step)."""
        # The exponent is bounded so that a long run does not build a huge integer.
        return min(self.first * 2 ** min(step // self.period, 30), self.last)
