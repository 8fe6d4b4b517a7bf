"""Kernels of the form q_t(z|x) = a(t) δ_x(z) + n_t(z): a token survives, or is replaced by noise that forgets it.

n_t = β_t π_t has mass 1 − a(t). The transition from s to t is P(s, t) = (a_t/a_s) I + 1 (n_t − (a_t/a_s) n_s)ᵀ, whether
or not the generators commute over time. Where the law of the noise is constant, n_t = (1 − a) π, they do; the two plain
kernels differ in π alone: all mass on the mask token (absorbing), or equal mass on the real symbols (uniform).

References: "Structured Denoising Diffusion Models in Discrete State-Spaces", Austin et al., 2021; "Generalized
Interpolating Discrete Diffusion", von Rütte et al., 2025 (moving noise); "Discrete Flow Matching", Gat et al., 2024
(flow-matching rates).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption, AbstractMaskingCorruption, uniforms
from isocline.processes.token_schedule import AbstractSurvival
from isocline.shapes import expand_like
from isocline.solvers.markov import draw_symbols

__all__ = ["AbsorbingKernel", "AbstractFixedNoiseKernel", "AbstractKernel", "UniformKernel", "copy_visible", "uniforms"]


def _at(values: Tensor, z: Tensor) -> Tensor:
    """Entries of ``(V,)`` or ``(B, V)`` values at tokens ``z`` ``(B, L)``; ``(B, L, 1)``."""
    return values.expand(len(z), -1).gather(-1, z).unsqueeze(-1)


class AbstractKernel(AbstractCorruption):
    """A kernel q_t = a δ_x + n_t.

    Args:
        vocab_size: vocabulary V, the mask token counted (it is the last, index V − 1).
        schedule: survival probability a(t).

    Raises:
        ValueError: if there is no real symbol beside the mask.
    """

    def __init__(self, vocab_size: int, schedule: AbstractSurvival) -> None:
        super().__init__(vocab_size)
        self.schedule = schedule

    @abstractmethod
    def noise(self, t: Tensor) -> Tensor:
        """n_t, the mass of noise on every symbol, ``(*t.shape, V)`` float64; sums to 1 − a(t)."""

    @abstractmethod
    def noise_rate(self, t: Tensor) -> Tensor:
        """The derivative n'_t, ``(*t.shape, V)`` float64; sums to −a'(t)."""

    def draw_noise(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from n_t, normalised, a token for every position of ``x0`` ``(B, L)``; int64 ``(B, L)``."""
        return draw_symbols(self.noise(t).unsqueeze(-2).expand(*x0.shape, -1), generator)

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Corrupt clean tokens ``x0`` ``(B, L)`` to time ``t`` (``()`` or ``(B,)``); int64 ``(B, L)``."""
        keep = uniforms(x0.shape, generator, x0.device)
        noise = self.draw_noise(x0, t, generator)
        return torch.where(keep < expand_like(self.schedule.a(t), x0), x0, noise)

    def corrupted(self, t: Tensor, weights: Tensor) -> Tensor:
        """A(t) w + n_t Σ_k w_k, whatever noise there is at t = 0 already."""
        noise = self.noise(t).unsqueeze(-2)
        return expand_like(self.schedule.a(t), weights) * weights + noise * weights.sum(-1, keepdim=True)

    def emission(self, t: Tensor, z: Tensor) -> Tensor:
        """A(t) δ_z + n_t(z), whatever noise there is at t = 0 already."""
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        return expand_like(self.schedule.a(t), onehot) * onehot + _at(self.noise(t), z)

    def push(self, s: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        """(a_t/a_s) w + (n_t − (a_t/a_s) n_s) Σ_k w_k."""
        ratio, fresh = self._between(s, t)
        return expand_like(ratio, weights) * weights + fresh.unsqueeze(-2) * weights.sum(-1, keepdim=True)

    def likelihood(self, s: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """(a_t/a_s) δ_z + (n_t − (a_t/a_s) n_s)(z)."""
        ratio, fresh = self._between(s, t)
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        return expand_like(ratio, onehot) * onehot + _at(fresh, z)

    def rates_into(self, t: Tensor, z: Tensor) -> Tensor:
        """(a'/a) δ_z + g(z), with the rate of fresh noise g = n' − (a'/a) n."""
        decay = self.schedule.da(t) / self.schedule.a(t)
        fresh = self.noise_rate(t) - decay.unsqueeze(-1) * self.noise(t)
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        return expand_like(decay, onehot) * onehot + _at(fresh, z)

    def flow_rate(self, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """Generating rates of discrete flow matching: (a h − a') p(y|z) + (h n − n')(y) − h δ_z(y).

        A position is redrawn at rate h = max_y n'(y)/n(y), the least that keeps all rates non-negative (Gat et al.,
        2024, Theorem 3, with one component per symbol of noise). For noise of a constant law h = −a'/(1−a), and the
        middle term vanishes.

        Args:
            t: time, ``()`` or ``(B,)``, above 0.
            z: tokens, ``(B, L)``.
            probs: p(x|z), ``(B, L, V)``.

        Returns:
            Rates ``(B, L, V)`` float64 per unit of time running from 1 to 0; rows sum to zero.
        """
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        noise, slope = self.noise(t), self.noise_rate(t)
        redraw = torch.where(noise > 0, slope / noise, -torch.inf).amax(-1)
        reveal = expand_like(self.schedule.a(t) * redraw - self.schedule.da(t), onehot)
        fresh = (redraw.unsqueeze(-1) * noise - slope).unsqueeze(-2)
        return reveal * probs.double() + fresh - expand_like(redraw, onehot) * onehot

    def _between(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Survival a_t/a_s and the noise n_t − (a_t/a_s) n_s that is added from s to t."""
        ratio = self.schedule.a(t) / self.schedule.a(s)
        # Exactly it is never negative; near s = t it is a small difference of large numbers.
        return ratio, (self.noise(t) - ratio.unsqueeze(-1) * self.noise(s)).clamp_min(0.0)


class AbstractFixedNoiseKernel(AbstractKernel):
    """A kernel whose noise has the same law at every time, the stationary one: n_t = (1 − a) π."""

    def noise(self, t: Tensor) -> Tensor:
        """(1 − a) π."""
        return (1.0 - self.schedule.a(t)).unsqueeze(-1) * self.stationary(t.device)

    def noise_rate(self, t: Tensor) -> Tensor:
        """−a' π."""
        return -self.schedule.da(t).unsqueeze(-1) * self.stationary(t.device)

    def draw_noise(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draws from the prior."""
        return self.prior(x0.shape, generator, x0.device)

    def flow_rate(self, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """u(y|z) = −a'/(1−a) [p(y|z) − δ_z(y)] (Gat et al., 2024)."""
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        return expand_like(self.schedule.hazard(t), onehot) * (probs.double() - onehot)


def copy_visible(log_probs: Tensor, z: Tensor, masked: Tensor) -> Tensor:
    """Log-laws ``(B, L, V)`` made certain of the token of ``z`` ``(B, L)`` where that is not ``masked``, the mask."""
    visible = ~masked.unsqueeze(-1)
    # The law of a visible token is 1 at its symbol; that of a masked one is 0 at the mask already.
    certain = torch.zeros_like(visible, dtype=log_probs.dtype).masked_fill(~visible, -torch.inf)
    return log_probs.masked_fill(visible, -torch.inf).scatter(-1, z.unsqueeze(-1), certain)


class AbsorbingKernel(AbstractMaskingCorruption, AbstractFixedNoiseKernel):
    """Tokens turn into the mask and stay there: q_t = a δ_x + (1 − a) δ_mask."""

    def undecided(self, z: Tensor) -> Tensor:
        """The masked positions."""
        return z == self.mask

    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Substitution: the mask is never a clean token, a visible token is copied.

        "Simple and Effective Masked Diffusion Language Models", Sahoo et al., 2024, section 3.2.3.
        """
        return copy_visible(super().clean_log_probs(logits, z), z, self.undecided(z))

    def posterior(self, z: Tensor, s: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """A mask turns into x ~ p with probability (a_s − a_t)/(1 − a_t); visible tokens stay (Austin et al., 2021)."""
        probs = probs.double()
        onehot = torch.nn.functional.one_hot(z, self.vocab_size).double()
        a_s, a_t = (expand_like(self.schedule.a(time), probs) for time in (s, t))
        reveal = (a_s - a_t) / (1.0 - a_t)
        return torch.where(self.undecided(z).unsqueeze(-1), reveal * probs + (1.0 - reveal) * onehot, onehot)


class UniformKernel(AbstractFixedNoiseKernel):
    """Tokens are replaced by uniform draws from the V − 1 real symbols: q_t = a δ_x + (1 − a)/(V − 1)."""

    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """1/(V − 1) on the real symbols, 0 on the mask."""
        pi = torch.full((self.vocab_size,), 1.0 / self.mask, dtype=torch.float64, device=device)
        pi[self.mask] = 0.0
        return pi

    def prior(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Independent uniform real symbols."""
        return (uniforms(shape, generator, device) * self.mask).long()
