"""How much is masked again: the strategies of remasking diffusion.

From t to s < t a visible token turns into the mask with probability σ, and a mask into x ~ p with probability
(a_s − (1 − σ) a_t)/(1 − a_t): the marginals q_s are those of masked diffusion for every 0 ≤ σ ≤ min(1, (1 − a_s)/a_t).

Reference: "Remasking Discrete Diffusion Models with Inference-Time Scaling", Wang et al., 2025, sections 3 and 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.processes.token_schedule import AbstractSurvival

__all__ = ["AbstractRemasking", "CapRemasking", "ConfidenceRemasking", "LoopRemasking", "RescaledRemasking", "bound"]


def bound(a_t: Tensor, a_s: Tensor) -> Tensor:
    """The largest probability of remasking, min(1, (1 − a_s)/a_t)."""
    return torch.where(a_t > 0, (1.0 - a_s) / a_t, 1.0).clamp(max=1.0)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}: must be in [0, 1]; 0 masks nothing again")


class AbstractRemasking(ABC):
    """A probability of remasking for every step and position."""

    def survival(self, schedule: AbstractSurvival, t: Tensor) -> Tensor:
        """Share of visible tokens at time ``t`` of the generation; the kernel's own a(t) by default."""
        return schedule.a(t)

    @abstractmethod
    def probability(self, t: Tensor, a_t: Tensor, a_s: Tensor, certainty: Tensor) -> Tensor:
        """Probability σ that a token is masked again.

        Args:
            t: time at the start of the step, ``()``.
            a_t: survival there, ``()``.
            a_s: survival at its end, ``()``.
            certainty: probability of each visible token when it was revealed, ``(B, L)``; infinite for masks and
                prompted tokens.

        Returns:
            ``()``, or ``(B, L)`` where positions differ.
        """


class CapRemasking(AbstractRemasking):
    """σ = min(η, bound): the same probability at every step, where the bound allows it.

    Args:
        share: η.

    Raises:
        ValueError: if it is no probability.
    """

    def __init__(self, share: float = 0.02) -> None:
        _check_share("share", share)
        self.share = share

    def probability(self, t: Tensor, a_t: Tensor, a_s: Tensor, certainty: Tensor) -> Tensor:
        """See the base class."""
        return bound(a_t, a_s).clamp(max=self.share)


class RescaledRemasking(AbstractRemasking):
    """σ = η · bound.

    Args:
        share: η.

    Raises:
        ValueError: if it is no probability.
    """

    def __init__(self, share: float = 0.1) -> None:
        _check_share("share", share)
        self.share = share

    def probability(self, t: Tensor, a_t: Tensor, a_s: Tensor, certainty: Tensor) -> Tensor:
        """See the base class."""
        return self.share * bound(a_t, a_s)


class ConfidenceRemasking(AbstractRemasking):
    """Another strategy's σ, shared out by how uncertain tokens were when revealed: σ softmax(−ψ) over the sequence.

    The shares sum to one: at most one token per step and sequence is masked again on average. Since σ depends on the
    sequence, and masks have none, the marginals are no longer exactly those of masked diffusion.

    Args:
        inner: gives σ.
    """

    def __init__(self, inner: AbstractRemasking) -> None:
        self.inner = inner

    def survival(self, schedule: AbstractSurvival, t: Tensor) -> Tensor:
        """The inner strategy's."""
        return self.inner.survival(schedule, t)

    def probability(self, t: Tensor, a_t: Tensor, a_s: Tensor, certainty: Tensor) -> Tensor:
        """See the base class."""
        # Rows without a token to mask have no softmax.
        shares = torch.nan_to_num(torch.softmax(-certainty, dim=-1), nan=0.0)
        return self.inner.probability(t, a_t, a_s, certainty) * shares


class LoopRemasking(AbstractRemasking):
    """Reveal most tokens, mask and reveal at a constant share for a while, then finish.

    The share of visible tokens rises to ``level`` while t falls from 1 to ``start``, stays until ``stop``, and rises to
    1 at t = 0; another strategy remasks on the plateau only.

    Args:
        inner: gives σ on the plateau.
        start: time at which the plateau begins.
        stop: time at which it ends.
        level: share of visible tokens on it.

    Raises:
        ValueError: unless 0 < stop < start < 1 and 0 < level < 1.
    """

    def __init__(self, inner: AbstractRemasking, start: float = 0.55, stop: float = 0.05, level: float = 0.9) -> None:
        if not 0 < stop < start < 1 or not 0 < level < 1:
            raise ValueError(
                f"start = {start}, stop = {stop}, level = {level}: need 0 < stop < start < 1, 0 < level < 1"
            )
        self.inner, self.start, self.stop, self.level = inner, start, stop, level

    def survival(self, schedule: AbstractSurvival, t: Tensor) -> Tensor:
        """The schedule, slowed down so that it rests at the level."""
        t = t.double()
        rest = schedule.inverse(torch.full_like(t, self.level))
        before = rest + (1.0 - rest) * (t - self.start) / (1.0 - self.start)
        slowed = torch.where(t > self.start, before, torch.where(t < self.stop, rest * t / self.stop, rest))
        return schedule.a(slowed)

    def probability(self, t: Tensor, a_t: Tensor, a_s: Tensor, certainty: Tensor) -> Tensor:
        """See the base class."""
        # The slack counts a step that starts where the plateau does, but for rounding.
        inside = (t <= self.start + 1e-9) & (t > self.stop)
        return torch.where(inside, self.inner.probability(t, a_t, a_s, certainty), 0.0)
