"""The exact predictor of an enumerated law under diffusion of its embeddings; see `isocline.processes.enumerated`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.schedule import AbstractSchedule

__all__ = ["EnumeratedEmbeddingDenoiser"]


class EnumeratedEmbeddingDenoiser(nn.Module):
    """Logits log p(x_i = k | x_t), by Bayes' rule over all sequences, for fixed embeddings.

    Args:
        law: law of clean sequences.
        embeddings: of the real symbols, ``(S, D)`` float64.
        schedule: of the process.
    """

    embeddings: Tensor

    def __init__(self, law: EnumeratedLaw, embeddings: Tensor, schedule: AbstractSchedule) -> None:
        super().__init__()
        self.law = law
        self.schedule = schedule
        self.vocab_size = law.vocab_size
        self.register_buffer("embeddings", embeddings.double())

    def table(self) -> Tensor:
        """The embeddings, ``(S, D)``."""
        return self.embeddings

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings ``(B, L, D)`` of tokens ``(B, L)``."""
        return F.embedding(tokens, self.embeddings)

    def posterior(self, t: Tensor, x: Tensor) -> Tensor:
        """Log-probabilities ``(B, S^L)`` of the sequences given states ``(B, L, D)`` at ``t`` ``()`` or ``(B,)``."""
        values = self.schedule(t)
        alpha, sigma = (part.expand(len(x)).reshape(-1, 1) for part in (values.alpha, values.sigma))
        clean = self.embed(self.law.sequences).flatten(1)
        states = x.double().flatten(1)
        evidence = alpha * (states @ clean.T) - 0.5 * alpha.square() * clean.square().sum(-1)
        return (self.law.probs.log() + evidence / sigma.square()).log_softmax(-1)

    def forward(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and states ``(B, L, D)``; ``(B, L, V)`` float64."""
        onehot = F.one_hot(self.law.sequences, self.vocab_size).double()
        return torch.einsum("bn,nlv->blv", self.posterior(t, x).exp(), onehot).log()
