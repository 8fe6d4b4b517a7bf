"""Masking with a schedule per token: some symbols are hidden earlier than others, and generation decides them later.

Source: "Simplified and Generalized Masked Diffusion for Discrete Data", Shi et al., 2024, section 6 (GenMD4).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isocline.processes.corruption import AbstractMaskingCorruption, uniforms
from isocline.processes.kernel import copy_visible
from isocline.processes.learned_schedule import PolynomialTokenSurvival

__all__ = ["TokenwiseAbsorbingKernel"]


class TokenwiseAbsorbingKernel(AbstractMaskingCorruption):
    """q_t = a_x(t) δ_x + (1 − a_x(t)) δ_mask: the survival depends on the token that is hidden.

    A mask then says something about its token, and the bound depends on the schedules, which can be learned. Not of
    the form a δ_x + n_t.

    Args:
        vocab_size: vocabulary V, the mask token counted.
        schedule: a_v(t) = 1 − t^w_v for every token; made here if absent, with w = 1.

    Raises:
        ValueError: if the schedule is of another vocabulary.
    """

    def __init__(self, vocab_size: int, schedule: PolynomialTokenSurvival | None = None) -> None:
        super().__init__(vocab_size)
        self.schedule = PolynomialTokenSurvival(vocab_size) if schedule is None else schedule
        if self.schedule.vocab_size != vocab_size:
            raise ValueError(f"schedule.vocab_size = {self.schedule.vocab_size}: must be vocab_size = {vocab_size}")

    def undecided(self, z: Tensor) -> Tensor:
        """The masked positions."""
        return z == self.mask

    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Substitution as in `AbsorbingKernel`: the mask is never a clean token, a visible token is copied."""
        return copy_visible(super().clean_log_probs(logits, z), z, self.undecided(z))

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Corrupt clean tokens ``x0`` ``(B, L)`` to time ``t`` (``()`` or ``(B,)``); int64 ``(B, L)``."""
        keep = uniforms(x0.shape, generator, x0.device)
        return torch.where(keep < self.survival(x0, t), x0, self.mask)

    def survival(self, x0: Tensor, t: Tensor) -> Tensor:
        """a_x(t) of every token of ``x0`` ``(B, L)``; ``(B, L)`` float64."""
        return self.schedule.a(t).expand(len(x0), -1).gather(-1, x0)

    def log_law(self, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Σ log q_t(z|x0), ``(B,)``, of tokens ``z`` that are masked or clean; differentiable in the exponents."""
        hidden = self.schedule.masked(t).expand(len(x0), -1).gather(-1, x0)
        return torch.where(self.undecided(z), hidden, self.survival(x0, t)).log().sum(-1)

    def push(self, s: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        """r_k w_k on the symbols, r = a(t)/a(s), and what they lose on the mask."""
        ratio, lost = self._between(s, t)
        return ratio * weights + (lost * weights).sum(-1, keepdim=True) * self.stationary(weights.device)

    def likelihood(self, s: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """r_z δ_z, plus 1 − r_k from every symbol k if ``z`` is the mask."""
        ratio, lost = self._between(s, t)
        onehot = F.one_hot(z, self.vocab_size).double()
        return ratio * onehot + lost * onehot[..., self.mask :]

    def rates_into(self, t: Tensor, z: Tensor) -> Tensor:
        """(a_z'/a_z) δ_z, minus a_k'/a_k from every symbol k if ``z`` is the mask."""
        onehot = F.one_hot(z, self.vocab_size).double()
        decay = (self.schedule.da(t) / self.schedule.a(t)).unsqueeze(-2)
        return decay * onehot - decay * onehot[..., self.mask :]

    def _between(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Survival a(t)/a(s) of every token from s to t, and 1 minus it, each with an axis for positions."""
        before = self.schedule.a(s)
        lost = (self.schedule.masked(t) - self.schedule.masked(s)) / before
        return (self.schedule.a(t) / before).unsqueeze(-2), lost.unsqueeze(-2)
