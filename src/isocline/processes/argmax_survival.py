"""Uniform-state diffusion as the arg-max of a Gaussian one: the survival probability that a Gaussian schedule implies.

With w = α e_x + σ ε in ℝ^K the arg-max of w is x with probability P(r) = ∫ φ(u − r) Φ(u)^{K−1} du, r = α/σ, and any
other symbol with equal probability: the law of the uniform kernel with a = (K P(r) − 1)/(K − 1). The inverse of this
map, from a linear a(t) to a Gaussian schedule, is `isocline.processes.decided_schedule`.

Source: *The Diffusion Duality*, Sahoo et al., 2025, Theorem 3.1 (the diffusion transformation operator).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.processes.decided_schedule import undecided_share
from isocline.processes.schedule import AbstractSchedule
from isocline.processes.token_schedule import AbstractSurvival

__all__ = ["ArgmaxSurvival"]


class ArgmaxSurvival(AbstractSurvival):
    """a(t) of the arg-max of a Gaussian diffusion of one-hot vectors, so that t is the Gaussian diffusion's time.

    Nearly all of the change falls where α/σ is about √(2 ln K): for a large vocabulary a(t) is a steep step.

    Args:
        schedule: with α(1) = 0 and σ(0) = 0, so that a runs from 1 to 0.
        symbols: K, the real symbols.

    Raises:
        ValueError: if the schedule does not reach both ends, or there are fewer than two symbols.
    """

    def __init__(self, schedule: AbstractSchedule, symbols: int) -> None:
        if symbols < 2:
            raise ValueError(f"symbols = {symbols}: an arg-max needs at least 2")
        ends = schedule(torch.tensor([0.0, 1.0]))
        if float(ends.sigma[0]) > 1e-9 or float(ends.alpha[1]) > 1e-9:
            raise ValueError(
                f"schedule = {type(schedule).__name__}: needs σ(0) = 0 and α(1) = 0, so that tokens are clean at one "
                "end and noise at the other; for instance LinearSchedule"
            )
        self.schedule = schedule
        self.symbols = symbols
        # At this ratio the arg-max is another symbol than x with a probability below 1e-15.
        self.largest = math.sqrt(2.0 * math.log(symbols)) + 12.0
        self._ratios = torch.linspace(0.0, self.largest, 1025, dtype=torch.float64)
        self._survivals = self._of_ratio(self._ratios)[0]

    def a(self, t: Tensor) -> Tensor:
        """A(α/σ), 1 at t = 0 and 0 at t = 1 exactly."""
        t = torch.as_tensor(t).double()
        ratio, _ = self._ratio(t)
        value = self._of_ratio(ratio)[0]
        return torch.where(t <= 0, 1.0, torch.where(t >= 1, 0.0, value))

    def da(self, t: Tensor) -> Tensor:
        """A'(r) ṙ with ṙ = (α̇ σ − α σ̇)/σ²."""
        t = torch.as_tensor(t).double()
        ratio, change = self._ratio(t)
        slope = self._of_ratio(ratio)[1]
        return torch.where(ratio >= self.largest, 0.0, slope * change)

    def inverse(self, a: Tensor) -> Tensor:
        """Time at which the survival is ``a``: from a table, then Newton's steps in r."""
        a = torch.as_tensor(a).double()
        table, ratios = self._survivals.to(a.device), self._ratios.to(a.device)
        # The table is flat in the last bits at its end, where any of its points will do.
        upper = torch.searchsorted(table, a.contiguous()).clamp(1, len(table) - 1)
        low, high = table[upper - 1], table[upper]
        share = torch.where(high > low, (a - low) / (high - low).clamp_min(1e-300), 0.0)
        ratio = torch.lerp(ratios[upper - 1], ratios[upper], share.clamp(0.0, 1.0))
        for _ in range(4):
            value, slope = self._of_ratio(ratio)
            step = torch.where(slope > 1e-12, (value - a) / slope.clamp_min(1e-12), 0.0)
            ratio = torch.minimum(torch.maximum(ratio - step, ratios[upper - 1]), ratios[upper])
        t = self.schedule.inverse_log_ratio(ratio.clamp_min(1e-300).log()).clamp(0.0, 1.0)
        return torch.where(a >= 1, 0.0, torch.where(a <= 0, 1.0, t))

    def _of_ratio(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """A(r) and its derivative."""
        undecided, slope = undecided_share(ratio, self.symbols)
        return (1.0 - undecided).clamp(0.0, 1.0), -slope

    def _ratio(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The ratio r = α/σ, cut off where it no longer matters, and its derivative in t."""
        values = self.schedule(t)
        ratio = (values.alpha / values.sigma.clamp_min(1e-300)).clamp(max=self.largest)
        change = (values.dalpha * values.sigma - values.alpha * values.dsigma) / values.sigma.square().clamp_min(1e-300)
        return ratio, change
