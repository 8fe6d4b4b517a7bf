"""A squared distance whose gradient is bounded by a weight that the distance itself sets."""

from __future__ import annotations

from torch import Tensor

from isocline.distillation.distance import AbstractDistance

__all__ = ["AdaptiveDistance"]


class AdaptiveDistance(AbstractDistance):
    """Δ/sg(Δ + c)^p with Δ = ‖δ‖²/d: for p = 1 its value is near 1 whatever is lost, and its gradient is that of a log.

    p = 0 is the squared distance, p = ½ much like a pseudo-Huber one.

    Source: *Mean Flows for One-step Generative Modeling*, Geng et al., 2025, §4.3, Eq. 22 (there Δ is a sum over the
    event; here a mean, so that c does not depend on the size of images).

    Args:
        power: p.
        offset: c.

    Raises:
        ValueError: unless power >= 0 and offset > 0.
    """

    def __init__(self, power: float = 1.0, offset: float = 1e-3) -> None:
        if not (power >= 0 and offset > 0):
            raise ValueError(f"power={power} must not be negative and offset={offset} must be above 0")
        self.power, self.offset = power, offset

    def __call__(self, difference: Tensor) -> Tensor:
        """Return the weighted mean square."""
        square = difference.square().flatten(1).mean(1)
        return square / (square.detach() + self.offset) ** self.power
