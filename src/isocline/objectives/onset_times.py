"""Times for integrands that are large, and seldom so, near t = 0: importance sampling of bounds on tokens.

Generation decides a token at a rate of the order of 1/t, in the share 1 − a(t) ~ t^s of the positions that are still
open: the integrand of a bound has a mean ~ t^(s−1), but a mean square ~ t^(s−2), which is not integrable for s ≤ 1.
With t = u^p, u uniform, the weighted integrand has the mean square p² ∫ u^(p s − 2) du, finite for p > 1/s. At p = 2/s
it is of the same size everywhere.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["OnsetTimes", "onset_times"]


class OnsetTimes(NamedTuple):
    """Times and the weights that make the mean of an integrand an integral over time.

    Attributes:
        t: ``(B,)`` float64.
        weight: dt/du, ``(B,)`` float64.
    """

    t: Tensor
    weight: Tensor


def onset_times(u: Tensor, onset: float, start: float = 0.0) -> OnsetTimes:
    """Spread uniform draws over [start, 1], t = start + (1 − start) u^p with p = 2/s, and at least 1.

    Args:
        u: in [0, 1], ``(B,)`` float64.
        onset: s, see `isocline.processes.token_schedule.AbstractSurvival.onset`.
        start: first time.
    """
    power, length = max(1.0, 2.0 / onset), 1.0 - start
    return OnsetTimes(start + length * u**power, length * power * u ** (power - 1.0))
