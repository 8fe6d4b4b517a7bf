"""What a discriminator and the one whom it judges each minimise."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import relu, softplus

__all__ = ["AbstractAdversarialLoss", "HingeLoss", "NonSaturatingLoss"]


class AbstractAdversarialLoss(ABC):
    """Two losses of logits ``(B, H)``, high for what the discriminator takes for real; scalars."""

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return what the discriminator minimises."""

    @abstractmethod
    def student(self, fake: Tensor) -> Tensor:
        """Return what the maker of ``fake`` minimises."""


class HingeLoss(AbstractAdversarialLoss):
    """E max(0, 1 − D(real)) + E max(0, 1 + D(fake)) against −E D(fake).

    Source: *Geometric GAN*, Lim & Ye, 2017, §3.3; *Adversarial Diffusion Distillation*, Sauer et al., 2023, Eqs. 2
    and 3.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the hinges; no gradient beyond the margin of one."""
        return relu(1 - real).mean() + relu(1 + fake).mean()

    def student(self, fake: Tensor) -> Tensor:
        """Return −E D(fake)."""
        return -fake.mean()


class NonSaturatingLoss(AbstractAdversarialLoss):
    """−E ln p(real) − E ln(1 − p(fake)) against −E ln p(fake), with p = sigmoid(D).

    Source: *Generative Adversarial Networks*, Goodfellow et al., 2014, §3.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the cross entropy."""
        return softplus(-real).mean() + softplus(fake).mean()

    def student(self, fake: Tensor) -> Tensor:
        """Return −E ln p(fake)."""
        return softplus(-fake).mean()
