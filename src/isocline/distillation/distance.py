"""How far two samples are apart, per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["AbstractDistance", "PseudoHuber", "SquaredDistance"]


class AbstractDistance(ABC):
    """``distance(difference (B, *event)) -> (B,)``, means over the event, so that its size does not matter."""

    @abstractmethod
    def __call__(self, difference: Tensor) -> Tensor:
        """Return one number per sample, 0 only for no difference."""


class SquaredDistance(AbstractDistance):
    """‖δ‖²/d."""

    def __call__(self, difference: Tensor) -> Tensor:
        """Return the mean square."""
        return difference.square().flatten(1).mean(1)


class PseudoHuber(AbstractDistance):
    """√(‖δ‖²/d + c²) − c: quadratic near zero, the norm far away, so that no sample dominates a batch.

    It is iCT's √(‖δ‖² + C²) − C divided by √d, with C = c √d and c = 0.00054 there.

    Source: *Improved Techniques for Training Consistency Models*, Song & Dhariwal, 2024, Eq. 8.

    Args:
        c: where the one turns into the other.

    Raises:
        ValueError: if c is not above 0.
    """

    def __init__(self, c: float = 0.00054) -> None:
        if not c > 0:
            raise ValueError(f"c={c} must be above 0; the norm itself has no gradient at 0")
        self.c = c

    def __call__(self, difference: Tensor) -> Tensor:
        """Return the distance."""
        return (difference.square().flatten(1).mean(1) + self.c * self.c).sqrt() - self.c
