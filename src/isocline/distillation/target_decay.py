"""How fast the target of a consistency model follows its student."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["AbstractTargetDecay", "ConstantDecay", "CurriculumDecay"]


class AbstractTargetDecay(ABC):
    """``decay(intervals) -> μ`` in [0, 1): the weight of the past in the target's average."""

    @abstractmethod
    def __call__(self, intervals: float) -> float:
        """Return μ.

        Args:
            intervals: into how many the flow is cut at present.
        """


class ConstantDecay(AbstractTargetDecay):
    """The same decay throughout.

    Args:
        decay: μ.

    Raises:
        ValueError: if it is outside [0, 1).
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be in [0, 1)")
        self.decay = decay

    def __call__(self, intervals: float) -> float:
        """Return μ."""
        return self.decay


class CurriculumDecay(AbstractTargetDecay):
    """μ = exp(first ln μ_0/(N + 1)) for N intervals: the finer the pairs, the slower the target.

    Source: *Consistency Models*, Song et al., 2023, App. C, where N + 1 is called N.

    Args:
        first: s_0 of the curriculum: μ is μ_0 for s_0 − 1 intervals.
        decay: μ_0.

    Raises:
        ValueError: unless first >= 1 and the decay is in (0, 1).
    """

    def __init__(self, first: int = 2, decay: float = 0.9) -> None:
        if not (first >= 1 and 0 < decay < 1):
            raise ValueError(f"first={first} must be at least 1 and decay={decay} in (0, 1)")
        self.first, self.decay = first, decay

    def __call__(self, intervals: float) -> float:
        """Return μ."""
        # A power rather than exp of ln, so that it is μ_0 exactly where it should be.
        return float(self.decay ** (self.first / (intervals + 1)))
