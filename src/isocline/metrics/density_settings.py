"""What an evaluation of densities does: sizes and lists that the protocol states beside every number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DensitySettings"]


@dataclass(frozen=True)
class DensitySettings:
    """Evaluation of a density on points.

    Attributes:
        samples: points drawn per sampling seed, for the distance.
        seeds: sampling seeds.
        steps: steps of the classical Runge–Kutta method (4 evaluations each) at which a continuous flow's likelihood
            is measured.
        rtols: tolerances of joint adaptive control at which its evaluations are counted, loosest first; the last one
            gives the reported likelihood.
        trace_points: test points whose likelihood is estimated over and over, to see the spread of each trace.
        trace_draws: estimates per point.
        trace_steps: Runge–Kutta steps of these.
        grid: points along each side of the picture of a 2-D density.
        extent: the picture shows [−extent, extent]², in standard deviations of the data.

    Raises:
        ValueError: if a value is out of range.
    """

    samples: int = 1000
    seeds: int = 3
    steps: Sequence[int] = (1, 2, 4, 8, 16)
    rtols: Sequence[float] = (1e-3, 1e-5)
    trace_points: int = 64
    trace_draws: int = 16
    trace_steps: int = 8
    grid: int = 96
    extent: float = 2.5

    def __post_init__(self) -> None:
        least = {"samples": 2, "seeds": 1, "trace_points": 1, "trace_draws": 2, "trace_steps": 1, "grid": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"evaluation: {name} = {value!r}; give a whole number of at least {low}")
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise ValueError(f"evaluation: steps = {list(self.steps)}; list numbers of at least 1 in rising order")
        if not self.rtols or list(self.rtols) != sorted(set(self.rtols), reverse=True) or self.rtols[-1] <= 0:
            raise ValueError(f"evaluation: rtols = {list(self.rtols)}; list positive numbers in falling order")
        if not 0 < self.extent < math.inf:
            raise ValueError(f"evaluation: extent = {self.extent}; give a number above 0")
