"""Corruption of tokens by a Markov chain in time, independently at every position: what all kernels share.

A chain is given by three contractions of its transition matrices P(s, t): a law pushed forward, the likelihood of a
symbol under every earlier one, and the rates into a symbol. Posterior and time reversal follow from them by Bayes'
rule, so they are written once, for any P.

References: "Structured Denoising Diffusion Models in Discrete State-Spaces", Austin et al., 2021 (posteriors); "A
Continuous Time Framework for Discrete Denoising Models", Campbell et al., 2022 (time reversal).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.solvers.markov import draw_symbols

__all__ = ["AbstractCorruption", "AbstractMaskingCorruption", "uniforms"]


def uniforms(shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Draw float64 uniforms in [0, 1) on the generator's device and move them to ``device``."""
    draws = torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)
    return draws.to(device)


class AbstractCorruption(ABC):
    """A Markov chain on V symbols from t = 0, data, to t = 1, where every row of P(0, 1) is the stationary law.

    Args:
        vocab_size: vocabulary V, the mask token counted (it is the last, index V − 1).

    Attributes:
        t_min: end of the range of training times at the data, 0.
        t_max: end of that range at the noise, 1.

    Raises:
        ValueError: if there is no real symbol beside the mask.
    """

    t_min = 0.0
    t_max = 1.0

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one real symbol and the mask token (so 2)")
        self.vocab_size = vocab_size

    @property
    def mask(self) -> int:
        """Index of the mask token, V − 1."""
        return self.vocab_size - 1

    @abstractmethod
    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """The law at t = 1, ``(V,)`` float64."""

    @abstractmethod
    def push(self, s: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        """Σ_k w_k P(s, t)[k, ·]: weights over the symbols at s, carried to t ≥ s.

        Args:
            s: earlier time, ``()`` or ``(B,)``, with a chain that still remembers it.
            t: later time, ``()`` or ``(B,)``.
            weights: ``(B, L, V)`` float64, not necessarily normalised.

        Returns:
            ``(B, L, V)`` float64.
        """

    @abstractmethod
    def likelihood(self, s: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """P(s, t)[·, z]: probability of the tokens ``z`` ``(B, L)`` at t from every symbol at s; ``(B, L, V)``."""

    def corrupted(self, t: Tensor, weights: Tensor) -> Tensor:
        """Σ_k w_k q_t(·|x = k): weights over the clean symbols, ``(B, L, V)``, carried to t; like `push`."""
        return self.push(torch.zeros_like(t), t, weights)

    def emission(self, t: Tensor, z: Tensor) -> Tensor:
        """Q_t(z|·), the probability of the tokens ``z`` ``(B, L)`` at t from every clean symbol; ``(B, L, V)``."""
        return self.likelihood(torch.zeros_like(t), t, z)

    @abstractmethod
    def rates_into(self, t: Tensor, z: Tensor) -> Tensor:
        """Q_t[·, z]: rate from every symbol to the tokens ``z`` ``(B, L)`` at ``t``; ``(B, L, V)`` float64."""

    def undecided(self, z: Tensor) -> Tensor:
        """Mark the positions of ``z`` ``(B, L)`` whose clean token is open, bool: all, for any symbol may be noise."""
        return torch.ones_like(z, dtype=torch.bool)

    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Turn a network's logits ``(B, L, V)`` into log p(x|z), ``(B, L, V)``, −∞ where x is impossible: the mask."""
        real = torch.arange(self.vocab_size, device=logits.device) != self.mask
        return logits.masked_fill(~real, -torch.inf).log_softmax(-1)

    def prior(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Draw tokens at t = 1, int64 of ``shape`` = (B, L), from the stationary law."""
        cumulative = self.stationary(device).cumsum(-1)
        last = (cumulative < cumulative[-1]).sum()
        draws = uniforms(shape, generator, device) * cumulative[-1]
        return torch.minimum(torch.searchsorted(cumulative, draws, right=True), last)

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Corrupt clean tokens ``x0`` ``(B, L)`` to time ``t`` (``()`` or ``(B,)``); int64 ``(B, L)``."""
        return draw_symbols(self.marginal(x0, t), generator)

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """The law q_t(·|x0) as probabilities ``(B, L, V)`` float64."""
        onehot = torch.nn.functional.one_hot(x0, self.vocab_size).double()
        return self.corrupted(t, onehot)

    def transition(self, s: Tensor, t: Tensor) -> Tensor:
        """The matrix P(z_t = j | z_s = i) for scalar times s ≤ t, ``(V, V)`` float64."""
        return self.push(s, t, torch.eye(self.vocab_size, dtype=torch.float64, device=t.device).unsqueeze(0))[0]

    def forward_rate(self, t: Tensor) -> Tensor:
        """The generator Q_t for a scalar time, ``(V, V)`` float64; rows sum to zero."""
        return self.rates_into(t, torch.arange(self.vocab_size, device=t.device).unsqueeze(0))[0].T

    def posterior(self, z: Tensor, s: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """Law of the state at s < t given ``z`` at t: Σ_k p(k|z) P(s, t)[·, z] P(0, s)[k, ·] / P(0, t)[k, z].

        Bayes' rule for each clean symbol (Austin et al., 2021, Eq. 3).

        Args:
            z: tokens at t, ``(B, L)``.
            s: earlier (less noisy) time, ``()`` or ``(B,)``.
            t: time of ``z``, ``()`` or ``(B,)``.
            probs: p(x|z), ``(B, L, V)``; one-hot for a known clean sequence. No mass on the mask.

        Returns:
            Probabilities ``(B, L, V)`` float64.
        """
        weights = self.likelihood_ratio(z, t, probs)
        return self.likelihood(s, t, z) * self.corrupted(s, weights)

    def reverse_rate(self, t: Tensor, z: Tensor, probs: Tensor) -> Tensor:
        """Rates of the exact time reversal, Σ_k p(k|z) Q_t(y→z) q_t(y|k)/q_t(z|k) for y ≠ z (Campbell et al., 2022).

        Unless noise is only ever the mask they move mass between decided symbols too, and diverge as t → 1.

        Args:
            t: time, ``()`` or ``(B,)``, inside (0, 1).
            z: tokens, ``(B, L)``.
            probs: p(x|z), ``(B, L, V)``.

        Returns:
            Rates ``(B, L, V)`` float64 per unit of time running from 1 to 0; rows sum to zero.
        """
        weights = self.likelihood_ratio(z, t, probs)
        into = self.rates_into(t, z) * self.corrupted(t, weights)
        into = into.scatter(-1, z.unsqueeze(-1), 0.0)
        return into.scatter(-1, z.unsqueeze(-1), -into.sum(-1, keepdim=True))

    def likelihood_ratio(self, z: Tensor, t: Tensor, probs: Tensor) -> Tensor:
        """p(k|z)/q_t(z_i|k), ``(B, L, V)`` float64, the unnormalised leave-one-out law; 0 where p(k|z) = 0."""
        likelihood = self.emission(t, z).clamp_min(torch.finfo(torch.float64).tiny)
        probs = probs.double()
        return torch.where(probs > 0, probs / likelihood, 0.0)


class AbstractMaskingCorruption(AbstractCorruption):
    """A corruption that ends with every token masked."""

    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """δ_mask."""
        pi = torch.zeros(self.vocab_size, dtype=torch.float64, device=device)
        pi[self.mask] = 1.0
        return pi

    def prior(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """All positions masked; the generator is not used."""
        return torch.full(tuple(shape), self.mask, dtype=torch.int64, device=device)
