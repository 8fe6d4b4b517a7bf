"""A law of short token sequences that is known exactly, with its exact predictors: the ground truth of discrete models.

What `isocline.processes.mixture` is for continuous processes: with the exact denoiser every tight bound equals the
entropy, and every consistent sampler reproduces the law.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.processes.corruption import AbstractCorruption

__all__ = ["EnumeratedDenoiser", "EnumeratedLaw", "EnumeratedNextToken"]


class EnumeratedLaw:
    """A law over all sequences of L real symbols.

    Args:
        probs: probability of each sequence, ``(S,) * L``, the first axis the first position; normalised here.

    Raises:
        ValueError: if an entry is negative, all are zero or the axes differ in length.
    """

    def __init__(self, probs: Tensor) -> None:
        if len(set(probs.shape)) != 1 or bool((probs < 0).any()) or not bool(probs.sum() > 0):
            raise ValueError(f"probs of shape {tuple(probs.shape)}: needs equal axes and entries >= 0, not all zero")
        self.symbols = probs.shape[0]
        self.vocab_size = self.symbols + 1
        self.length = probs.ndim
        self.sequences = torch.tensor(list(itertools.product(range(self.symbols), repeat=self.length)))
        self.probs = probs.double().flatten() / probs.double().sum()

    @classmethod
    def random(cls, symbols: int, length: int, spread: float, generator: torch.Generator) -> EnumeratedLaw:
        """A law whose log-probabilities are normal with standard deviation ``spread``."""
        logits = torch.randn(symbols**length, generator=generator, dtype=torch.float64) * spread
        return cls(logits.softmax(0).reshape([symbols] * length))

    @property
    def entropy(self) -> Tensor:
        """Entropy in nats per sequence."""
        return -torch.special.xlogy(self.probs, self.probs).sum()

    def index(self, tokens: Tensor) -> Tensor:
        """Number of each row of ``tokens`` ``(B, L)`` in ``sequences``; ``(B,)``.

        Raises:
            ValueError: if a token is no real symbol.
        """
        if bool(((tokens < 0) | (tokens >= self.symbols)).any()):
            raise ValueError(f"tokens outside 0 to {self.symbols - 1} have no place in this law")
        weights = self.symbols ** torch.arange(self.length - 1, -1, -1)
        return (tokens * weights).sum(-1)

    def nats(self, tokens: Tensor) -> Tensor:
        """−log p of each row of ``tokens`` ``(B, L)``; ``(B,)`` float64."""
        return -self.probs.log()[self.index(tokens)]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` sequences, ``(count, L)`` int64."""
        return self.sequences[torch.multinomial(self.probs, count, replacement=True, generator=generator)]

    def frequencies(self, tokens: Tensor) -> Tensor:
        """Share of every sequence among ``tokens`` ``(B, L)``; ``(S^L,)`` float64."""
        return torch.bincount(self.index(tokens), minlength=len(self.probs)).double() / len(tokens)


class EnumeratedDenoiser(nn.Module):
    """Logits log p(x_i = k | z_t) under a kernel, by Bayes' rule over all sequences.

    Args:
        law: law of clean sequences.
        kernel: the corruption.
    """

    def __init__(self, law: EnumeratedLaw, kernel: AbstractCorruption) -> None:
        super().__init__()
        self.law = law
        self.kernel = kernel

    def forward(self, t: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and tokens ``z`` ``(B, L)``; ``(B, L, V)`` float64."""
        law = self.law
        onehot = F.one_hot(law.sequences, law.vocab_size).double()
        time = torch.as_tensor(t, dtype=torch.float64)
        column = self.kernel.emission(time, z).expand(*z.shape, -1)
        likelihood = torch.stack([column[:, i, law.sequences[:, i]] for i in range(law.length)], dim=-1)
        # A symbol that noise never yields is evidence whatever the time, even in a prompt at t = 1, where a = 0.
        impossible = likelihood.amax(1, keepdim=True) == 0
        same = (z.unsqueeze(1) == law.sequences).double()
        joint = torch.where(impossible, same, likelihood).prod(-1) * law.probs
        posterior = joint / joint.sum(-1, keepdim=True)
        return torch.einsum("bn,nlv->blv", posterior, onehot).log()


class EnumeratedNextToken(nn.Module):
    """Logits log p(x_i = k | x_<i) of a law, fed [mask, x_1, …, x_{L−1}].

    Args:
        law: law of clean sequences.
    """

    def __init__(self, law: EnumeratedLaw) -> None:
        super().__init__()
        self.law = law
        self.vocab_size = law.vocab_size

    def forward(self, t: Tensor, z: Tensor, cond: Any = None) -> Tensor:
        """Evaluate at shifted tokens ``z`` ``(B, L)``; ``(B, L, V)`` float64."""
        law = self.law
        onehot = F.one_hot(law.sequences, law.vocab_size).double()
        agree = (z[:, 1:].unsqueeze(1) == law.sequences[:, :-1]).double().cumprod(-1)
        agree = torch.cat([torch.ones_like(agree[..., :1]), agree], dim=-1) * law.probs.unsqueeze(-1)
        return torch.einsum("bnl,nlv->blv", agree, onehot).log()
