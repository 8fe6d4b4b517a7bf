"""What an adversarial term asks of a discriminator."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

__all__ = ["AbstractDiscriminator"]


class AbstractDiscriminator(nn.Module, ABC):
    """Logits of states in two parts: what is seen of a state, found once, and a judgement of it, which is trained."""

    @abstractmethod
    def features(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> list[Tensor]:
        """Return what is seen of states x ``(B, *event)`` at t ``(B,)``; nothing in it is trained."""

    @abstractmethod
    def forward(self, features: list[Tensor], t: Tensor) -> Tensor:
        """Return logits ``(B, H)``, high for what is taken for real."""
