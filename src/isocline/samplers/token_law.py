"""The law of clean tokens that a discrete sampler draws from: network, kernel, then temperature and truncation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.shapes import expand_like

__all__ = ["GreedyTail", "Sharpening", "TokenLaw"]

Network = Callable[..., Tensor]


def _most_probable(values: Tensor) -> Tensor:
    """The law that is certain of the largest of ``values`` ``(*rows, V)``; NaN where they are."""
    certain = torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
    return certain.masked_fill(values.amax(-1, keepdim=True).isnan(), torch.nan)


@dataclass(frozen=True)
class Sharpening:
    """Make a law of tokens less random: temperature, then nucleus, then minimum probability.

    Attributes:
        temperature: p^(1/T), normalised; 0 takes the most probable token; 1 changes nothing.
        top_p: keep the fewest most probable tokens whose mass reaches this ("The Curious Case of Neural Text
            Degeneration", Holtzman et al., 2020); 1 keeps all.
        min_p: keep tokens of at least this share of the largest probability ("Turning Up the Heat: Min-p Sampling",
            Nguyen et al., 2024); 0 keeps all.

    Raises:
        ValueError: if a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature = {self.temperature}: must be finite and at least 0 (0 is greedy)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p}: must be in (0, 1]; 1 keeps every token")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p = {self.min_p}: must be in [0, 1]; 0 keeps every token")

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Map log-probabilities ``(*rows, V)`` to probabilities, float64; what is NaN stays NaN."""
        log_probs = log_probs.double()
        if self == Sharpening():
            return log_probs.exp()
        if self.temperature == 0:
            return _most_probable(log_probs)
        probs = (log_probs / self.temperature).softmax(-1)
        if self.top_p < 1:
            ordered, order = probs.sort(dim=-1, descending=True)
            kept = ordered.cumsum(-1) - ordered < self.top_p
            probs = torch.zeros_like(probs).scatter(-1, order, ordered * kept)
        if self.min_p > 0:
            probs = probs * (probs >= self.min_p * probs.amax(-1, keepdim=True))
        return probs / probs.sum(-1, keepdim=True)

    def of(self, probs: Tensor) -> Tensor:
        """Map probabilities ``(*rows, V)``, float64, likewise."""
        return probs if self == Sharpening() else self(probs.log())


@dataclass(frozen=True)
class TokenLaw:
    """``law(t, z, cond)``: p(x|z) at every position, ``(B, L, V)`` float64; one network evaluation.

    Attributes:
        network: ``network(t, z, cond) -> (B, L, V)`` logits.
        kernel: gives the logits their meaning.
        sharpening: applied last.
    """

    network: Network
    kernel: AbstractCorruption
    sharpening: Sharpening

    def __call__(self, t: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """Evaluate the law at tokens ``z`` ``(B, L)`` and time ``t``."""
        return self.sharpening(self.kernel.clean_log_probs(self.network(t, z, cond), z))


@dataclass(frozen=True)
class GreedyTail:
    """Wrap a law: from a time on it is certain of its most probable token.

    The greedy last step of many samplers of masked and score-based models, as a choice: it raises the likelihood under
    a judge, and lowers the entropy.

    Attributes:
        law: ``law(t, z, cond) -> (B, L, V)`` probabilities.
        until: largest time at which the law is greedy.
    """

    law: Callable[[Tensor, Tensor, Any], Tensor]
    until: float

    def __call__(self, t: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """Evaluate the law at tokens ``z`` ``(B, L)`` and time ``t``, ``()`` or ``(B,)``."""
        probs = self.law(t, z, cond)
        greedy = _most_probable(probs)
        # The slack counts a step that starts at the time named, but for rounding.
        return torch.where(expand_like(t <= self.until + 1e-9, probs), greedy, probs)
