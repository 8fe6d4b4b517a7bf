"""What a depth integrator knows of a residual block: its two branches, without the skips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Branch", "Branches", "ResidualBlock"]

Branch = Callable[[Tensor], Tensor]
"""A map of states ``(B, L, D)`` to slopes of the same shape."""


@dataclass(frozen=True)
class Branches:
    """The branches of one block under one condition.

    Attributes:
        attention: A(x), normalisation and gate included.
        mlp: M(x), likewise.
        mlp_halves: M₁ and M₂ with M₁ + M₂ = M, made of one half of the hidden units each.
    """

    attention: Branch
    mlp: Branch
    mlp_halves: tuple[Branch, Branch]

    def field(self, x: Tensor) -> Tensor:
        """The block's field ``F(x) = A(x) + M(x + A(x))``: what the ordinary block adds to ``x``, ``(B, L, D)``."""
        a = self.attention(x)
        return a + self.mlp(x + a)


class ResidualBlock(Protocol):
    """A block that can be called as a whole and taken apart."""

    def __call__(self, x: Tensor, c: Tensor | None) -> Tensor:
        """The ordinary step: ``x + F(x)``."""

    def branches(self, c: Tensor | None) -> Branches:
        """The branches under the condition ``c`` ``(B, D)`` or None."""
