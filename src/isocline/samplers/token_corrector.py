"""Rates that leave the law q_t of noisy tokens as it is: correctors of discrete diffusion."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.samplers.discrete import required_kernel
from isocline.shapes import expand_like

__all__ = ["AbstractTokenCorrector", "DetailedBalanceCorrector", "ForwardBackwardCorrector"]


class AbstractTokenCorrector(ABC):
    """Rates under which q_t is stationary, given the exact law of clean tokens."""

    @abstractmethod
    def rate(self, kernel: AbstractCorruption, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """Rates of jumping at a constant time.

        Args:
            kernel: the corruption.
            t: the time, inside (0, 1), ``()`` or ``(B,)``.
            z: tokens, ``(B, L)``.
            probs: p(x|z), ``(B, L, V)`` float64.

        Returns:
            ``(B, L, V)`` float64; the entry of the current symbol has no meaning.
        """


class ForwardBackwardCorrector(AbstractTokenCorrector):
    """The rates of the corruption plus those of its time reversal (Campbell et al., 2022, section 4.4)."""

    def rate(self, kernel: AbstractCorruption, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """Q_t(z, y) plus the reversal's; see the base class."""
        if t.ndim:
            forward = torch.stack([kernel.forward_rate(time) for time in t])
            into = forward.gather(1, z.unsqueeze(-1).expand(-1, -1, forward.shape[-1]))
        else:
            into = kernel.forward_rate(t)[z]
        return into + kernel.reverse_rate(t, z, probs)


class DetailedBalanceCorrector(AbstractTokenCorrector):
    """Jumps between the clean token and noise, in balance for every clean token, at unit rate from noise.

    Given x, a symbol z ≠ x jumps to x at rate 1, and x to y ≠ x at rate n_t(y)/q_t(x|x): q_t(·|x) is in detailed
    balance. In all, z jumps to y at rate p(y|z) + p(z|z) n_t(y)/(a_t + n_t(z)).

    Source: Campbell et al., *Generative Flows on Discrete State-Spaces*, 2024 (rates in detailed balance); for the
    absorbing kernel it is the corrector of discrete flow matching (Gat et al., 2024) at another speed.
    """

    def rate(self, kernel: AbstractCorruption, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """See the base class."""
        known = required_kernel(kernel, "the detailed-balance corrector")
        noise = known.noise(t).to(z.device).expand(len(z), -1)
        stays = expand_like(known.schedule.a(t).to(z.device), z) + noise.gather(1, z)
        clean = probs.gather(-1, z.unsqueeze(-1)).squeeze(-1)
        spread = torch.where(stays > 0, clean / stays, 0.0)
        return probs + spread.unsqueeze(-1) * noise.unsqueeze(1)
