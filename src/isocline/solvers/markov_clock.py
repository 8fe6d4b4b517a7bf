"""Operational time of Markov chains whose rates are a function of time times a function of the state.

Where the rates are ``β(t) R(z)``, the chain is the one with rates ``R(z)`` run by a clock that shows ``∫ β``. Waiting
times are then found by inverting that integral, exactly and without asking for the rates again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["AbstractClock", "PiecewiseConstantClock", "Survival", "SurvivalClock", "UniformClock"]


class Survival(Protocol):
    """A schedule of token corruption, such as `isocline.processes.token_schedule.AbstractSurvival`."""

    def a(self, t: Tensor) -> Tensor:
        """Probability that a token is still clean at ``t``, falling from 1 at t = 0."""

    def inverse(self, a: Tensor) -> Tensor:
        """The time at which that probability is ``a``."""


class AbstractClock(ABC):
    """``∫ β dt`` over the time that passes, and its inverse; tensors are float64 of a common shape."""

    @abstractmethod
    def elapsed(self, t0: Tensor, t1: Tensor) -> Tensor:
        """``|∫ β dt|`` from ``t0`` to ``t1``; may be infinite."""

    @abstractmethod
    def after(self, t0: Tensor, amount: Tensor, sign: Tensor) -> Tensor:
        """The time at which ``amount`` has elapsed since ``t0``, less than what elapses in the span.

        Args:
            t0: start.
            amount: positive, finite.
            sign: direction of time, 1 or -1.
        """

    def arrivals(self, t: Tensor, end: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
        """When an amount has elapsed, each of shape (n,).

        Args:
            t: present times.
            end: ends of the step.
            amount: positive; infinite for what never happens.

        Returns:
            the times, of no meaning where the end comes first, and whether it does not.
        """
        arrives = amount < self.elapsed(t, end)
        time, sign = t.clone(), torch.where(end >= t, 1.0, -1.0).to(t.dtype)
        time[arrives] = self.after(t[arrives], amount[arrives], sign[arrives])
        # The inverse rounds, possibly to a time beyond the end.
        return time.clamp(torch.minimum(t, end), torch.maximum(t, end)), arrives


class UniformClock(AbstractClock):
    """β = 1: rates that do not depend on time."""

    def elapsed(self, t0: Tensor, t1: Tensor) -> Tensor:
        """``|t1 - t0|``."""
        return (t1 - t0).abs()

    def after(self, t0: Tensor, amount: Tensor, sign: Tensor) -> Tensor:
        """``t0 ± amount``."""
        return torch.addcmul(t0, sign, amount)


class PiecewiseConstantClock(AbstractClock):
    """β is constant between given times.

    Args:
        times: K+1 strictly increasing times.
        values: β between them, K numbers, not negative.

    Raises:
        ValueError: if the times do not increase, the values are negative or not finite, or their numbers do not fit;
            when asked about a time outside.
    """

    def __init__(self, times: Tensor | Sequence[float], values: Tensor | Sequence[float]) -> None:
        self._times = torch.as_tensor(times, dtype=torch.float64)
        self._values = torch.as_tensor(values, dtype=torch.float64)
        if self._times.ndim != 1 or self._values.shape != (len(self._times) - 1,) or not len(self._values):
            raise ValueError(
                f"times has shape {tuple(self._times.shape)}, values {tuple(self._values.shape)}; expected (K+1,), (K,)"
            )
        if not bool((self._times.diff() > 0).all()):
            raise ValueError(f"times={self._times.tolist()} does not increase strictly; sort it, drop repeated times")
        if not bool(((self._values >= 0) & self._values.isfinite()).all()):
            raise ValueError(f"values={self._values.tolist()}; expected finite numbers that are not negative")
        self._integral = torch.cat([torch.zeros_like(self._times[:1]), (self._times.diff() * self._values).cumsum(0)])

    def elapsed(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Difference of the piecewise linear integral."""
        return (self._at(t1) - self._at(t0)).abs()

    def after(self, t0: Tensor, amount: Tensor, sign: Tensor) -> Tensor:
        """Invert the piecewise linear integral."""
        wanted = self._at(t0) + sign * amount
        times, values, integral = (table.to(t0.device) for table in (self._times, self._values, self._integral))
        piece = (torch.searchsorted(integral, wanted) - 1).clamp(0, len(values) - 1)
        # A piece on which nothing happens is never the one in which an amount is reached, but for rounding.
        share = (wanted - integral[piece]) / torch.where(values[piece] > 0, values[piece], torch.inf)
        return torch.minimum(times[piece] + share, times[piece + 1])

    def _at(self, t: Tensor) -> Tensor:
        times, values, integral = (table.to(t.device) for table in (self._times, self._values, self._integral))
        outside = (t < times[0]) | (t > times[-1])
        if bool(outside.any()):
            raise ValueError(f"the clock was asked about t={float(t[outside].flatten()[0])}; its times end before that")
        piece = (torch.searchsorted(times, t.contiguous(), right=True) - 1).clamp(0, len(values) - 1)
        return torch.addcmul(integral[piece], t - times[piece], values[piece])


@dataclass(frozen=True)
class SurvivalClock(AbstractClock):
    """The clock of generation under a masking schedule: ``β = -a'/(1 - a)``, from noise at t = 1 to data at t = 0.

    It shows ``ln (1 - a(t0)) / (1 - a(t1))``, infinite at a = 1: whatever happens at a positive rate happens before.

    Attributes:
        survival: the schedule a(t).
    """

    survival: Survival

    def elapsed(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Logarithm of the ratio of the shares that are noise.

        Raises:
            ValueError: if time does not run towards the data.
        """
        before, after = 1 - self.survival.a(t0), 1 - self.survival.a(t1)
        if bool((after > before * (1 + 1e-9)).any()):
            raise ValueError("SurvivalClock runs from noise to data, that is, from t0 down to t1 < t0; swap the times")
        # Where nothing is noise, the ratio of zeros is to be infinite, not undefined.
        return torch.where(after > 0, torch.log(before / after).clamp(min=0), torch.inf)

    def after(self, t0: Tensor, amount: Tensor, sign: Tensor) -> Tensor:
        """The time at which ``1 - a`` has fallen by the factor ``exp(-amount)``."""
        return self.survival.inverse(1 - torch.exp(-amount) * (1 - self.survival.a(t0)))
