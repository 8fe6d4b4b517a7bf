"""Corruption kernels on tokens: q_t(z|x) = a(t) δ_x(z) + (1 − a(t)) π(z), independently at every position.

The two kernels differ in their stationary law π alone: all mass on the mask token (absorbing), or equal mass on the
real symbols (uniform). Generators of one kernel commute over time, so the transition from s to t is
(a_t/a_s) I + (1 − a_t/a_s) 1πᵀ.

References: "Structured Denoising Diffusion Models in Discrete State-Spaces", Austin et al., 2021 (posteriors); "A
Continuous Time Framework for Discrete Denoising Models", Campbell et al., 2022 (time reversal); "Discrete Flow
Matching", Gat et al., 2024 (flow-matching rates).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.token_schedule import AbstractSurvival
from isocline.shapes import expand_like

__all__ = ["AbsorbingKernel", "AbstractKernel", "UniformKernel", "uniforms"]


def uniforms(shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Draw float64 uniforms in [0, 1) on the generator's device and move them to ``device``."""
    draws = torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)
    return draws.to(device)


class AbstractKernel(ABC):
    """A kernel q_t = a δ_x + (1 − a) π.

    Args:
        vocab_size: vocabulary V, the mask token counted (it is the last, index V − 1).
        schedule: survival probability a(t).

    Attributes:
        t_min: end of the range of training times at the data, 0.
        t_max: end of that range at the noise, 1.

    Raises:
        ValueError: if there is no real symbol beside the mask.
    """

    t_min = 0.0
    t_max = 1.0

    def __init__(self, vocab_size: int, schedule: AbstractSurvival) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one real symbol and the mask token (so 2)")
        self.vocab_size = vocab_size
        self.schedule = schedule

    @property
    def mask(self) -> int:
        """Index of the mask token, V − 1."""
        return self.vocab_size - 1

    @abstractmethod
    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """The stationary law π, ``(V,)`` float64."""

    @abstractmethod
    def prior(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Draw tokens at t = 1, int64 of ``shape`` = (B, L), from π."""

    @abstractmethod
    def undecided(self, z: Tensor) -> Tensor:
        """Mark the positions of ``z`` ``(B, L)`` whose clean token the kernel leaves open; bool ``(B, L)``."""

    @abstractmethod
    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Turn a network's logits ``(B, L, V)`` into log p(x|z), ``(B, L, V)``, −∞ where x is impossible."""

    @abstractmethod
    def posterior(self, z: Tensor, s: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """Law of the state at s < t given the state ``z`` at t: Σ_k p(k|z) q(z_s | z_t, x=k).

        Args:
            z: tokens at t, ``(B, L)``.
            s: earlier (less noisy) time, ``()`` or ``(B,)``.
            t: time of ``z``, ``()`` or ``(B,)``.
            probs: p(x|z), ``(B, L, V)``; one-hot for a known clean sequence. No mass on the mask.

        Returns:
            Probabilities ``(B, L, V)`` float64.
        """

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Corrupt clean tokens ``x0`` ``(B, L)`` to time ``t`` (``()`` or ``(B,)``); int64 ``(B, L)``."""
        keep = uniforms(x0.shape, generator, x0.device)
        noise = self.prior(x0.shape, generator, x0.device)
        return torch.where(keep < expand_like(self.schedule.a(t), x0), x0, noise)

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """The law q_t(·|x0) as probabilities ``(B, L, V)`` float64."""
        onehot = torch.nn.functional.one_hot(x0, self.vocab_size).double()
        a = expand_like(self.schedule.a(t), onehot)
        return a * onehot + (1.0 - a) * self.stationary(x0.device)

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        """The matrix P(z_t = j | z_s = i) for scalar times s ≤ t, ``(V, V)`` float64."""
        ratio = self.schedule.a(t) / self.schedule.a(s)
        pi = self.stationary(ratio.device)
        return ratio * torch.eye(self.vocab_size, dtype=torch.float64, device=pi.device) + (1.0 - ratio) * pi.expand(
            len(pi), -1
        )

    def forward_rate(self, t: Tensor) -> Tensor:
        """The generator Q_t = −(a'/a)(1πᵀ − I) for a scalar time, ``(V, V)`` float64; rows sum to zero."""
        pi = self.stationary(t.device)
        jump = pi.expand(len(pi), -1) - torch.eye(self.vocab_size, dtype=torch.float64, device=pi.device)
        return -(self.schedule.da(t) / self.schedule.a(t)) * jump

    def flow_rate(self, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """Generating rates of discrete flow matching, u(y|z) = −a'/(1−a) [p(y|z) − δ_z(y)] (Gat et al., 2024).

        Args:
            t: time, ``()`` or ``(B,)``, above 0.
            z: tokens, ``(B, L)``.
            probs: p(x|z), ``(B, L, V)``.

        Returns:
            Rates ``(B, L, V)`` float64 per unit of time running from 1 to 0; rows sum to zero.
        """
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        return expand_like(self.schedule.hazard(t), onehot) * (probs.double() - onehot)

    def reverse_rate(self, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """Rates of the exact time reversal, Σ_k p(k|z) Q_t(y→z) q_t(y|k)/q_t(z|k) for y ≠ z (Campbell et al., 2022).

        For the absorbing kernel they equal `flow_rate`. For the uniform one they move mass between decided symbols
        too and diverge as a → 0.

        Args:
            t: time, ``()`` or ``(B,)``, with 0 < a(t) < 1.
            z: tokens, ``(B, L)``.
            probs: p(x|z), ``(B, L, V)``.

        Returns:
            Rates ``(B, L, V)`` float64 per unit of time running from 1 to 0; rows sum to zero.
        """
        probs = probs.double()
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        pi = self.stationary(z.device)
        a = expand_like(self.schedule.a(t), probs)
        hazard = expand_like(-self.schedule.da(t) / self.schedule.a(t), probs)
        weights = self.likelihood_ratio(z, t, probs)
        ratio = a * weights + (1.0 - a) * pi * weights.sum(-1, keepdim=True)
        into = hazard * pi[z].unsqueeze(-1) * ratio * (1.0 - onehot)
        return into - onehot * into.sum(-1, keepdim=True)

    def likelihood_ratio(self, z: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """p(k|z)/q_t(z_i|k), ``(B, L, V)`` float64, the unnormalised leave-one-out law; 0 where p(k|z) = 0."""
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        a = expand_like(self.schedule.a(t), onehot)
        likelihood = a * onehot + (1.0 - a) * self.stationary(z.device)[z].unsqueeze(-1)
        probs = probs.double()
        return torch.where(probs > 0, probs / likelihood.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


class AbsorbingKernel(AbstractKernel):
    """Tokens turn into the mask and stay there: q_t = a δ_x + (1 − a) δ_mask."""

    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """δ_mask."""
        pi = torch.zeros(self.vocab_size, dtype=torch.float64, device=device)
        pi[self.mask] = 1.0
        return pi

    def prior(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """All positions masked; the generator is not used."""
        return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=device)

    def undecided(self, z: Tensor) -> Tensor:
        """The masked positions."""
        return z == self.mask

    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Substitution: the mask is never a clean token, a visible token is copied.

        "Simple and Effective Masked Diffusion Language Models", Sahoo et al., 2024, section 3.2.3.
        """
        real = torch.arange(self.vocab_size, device=logits.device) != self.mask
        log_probs = logits.masked_fill(~real, -torch.inf).log_softmax(-1)
        visible = ~self.undecided(z).unsqueeze(-1)
        # The law of a visible token is 1 at its symbol; that of a masked one is 0 at the mask already.
        certain = torch.zeros_like(visible, dtype=log_probs.dtype).masked_fill(~visible, -torch.inf)
        return log_probs.masked_fill(visible, -torch.inf).scatter(-1, z.unsqueeze(-1), certain)

    def posterior(self, z: Tensor, s: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """A mask turns into x ~ p with probability (a_s − a_t)/(1 − a_t); visible tokens stay (Austin et al., 2021)."""
        probs = probs.double()
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        a_s, a_t = (expand_like(self.schedule.a(time), probs) for time in (s, t))
        reveal = (a_s - a_t) / (1.0 - a_t)
        return torch.where(self.undecided(z).unsqueeze(-1), reveal * probs + (1.0 - reveal) * onehot, onehot)


class UniformKernel(AbstractKernel):
    """Tokens are replaced by uniform draws from the V − 1 real symbols: q_t = a δ_x + (1 − a)/(V − 1)."""

    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """1/(V − 1) on the real symbols, 0 on the mask."""
        pi = torch.full((self.vocab_size,), 1.0 / self.mask, dtype=torch.float64, device=device)
        pi[self.mask] = 0.0
        return pi

    def prior(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Independent uniform real symbols."""
        return (uniforms(shape, generator, device) * self.mask).long()

    def undecided(self, z: Tensor) -> Tensor:
        """All positions: any symbol may be noise."""
        return torch.ones_like(z, dtype=torch.bool)

    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Log-softmax over the real symbols; the mask is impossible."""
        real = torch.arange(self.vocab_size, device=logits.device) != self.mask
        return logits.masked_fill(~real, -torch.inf).log_softmax(-1)

    def posterior(self, z: Tensor, s: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """Σ_k p(k|z) q(z_t|z_s) q(z_s|k)/q(z_t|k), Bayes' rule for each clean symbol (Austin et al., 2021, Eq. 3)."""
        probs = probs.double()
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        pi = self.stationary(z.device)
        a_s, a_t = (expand_like(self.schedule.a(time), probs) for time in (s, t))
        weights = self.likelihood_ratio(z, t, probs)
        ratio = a_t / a_s
        step = ratio * onehot + (1.0 - ratio) * pi[z].unsqueeze(-1)
        return step * (a_s * weights + (1.0 - a_s) * pi * weights.sum(-1, keepdim=True))
