"""A Transformer over noisy embeddings of tokens: logits of the clean token at every position."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.networks.embedding import ConditionEmbedding
from isocline.networks.length_predictor import LengthPredictor
from isocline.networks.transformer import Transformer
from isocline.processes.embedding import log_evidence
from isocline.processes.schedule import AbstractSchedule

__all__ = ["EmbeddingTransformer"]


class EmbeddingTransformer(nn.Module):
    """A bidirectional Transformer on states ``(B, L, D)``, together with the embeddings that it denoises.

    Embeddings of fixed norm cannot collapse to a point, nor grow to escape the noise ("Continuous Diffusion for
    Categorical Data", Dieleman et al., 2022). The norm sets which noise hides a token: one among V embeddings at right
    angles is found where norm² α²/σ² ≈ ln V, which at norm 2 and V = 1,000 is the middle of a cosine schedule.

    Args:
        vocab_size: vocabulary V; the mask token is the last and has no embedding.
        length: longest sequence L.
        width: width of the Transformer.
        depth: number of blocks.
        heads: attention heads.
        dimension: width D of the embeddings.
        norm: their norm; None leaves it free, as in "Diffusion-LM", Li et al., 2022.
        classes: number of class labels, 0 for none.
        relative: whether attention has a learned bias by distance.
        self_conditioning: whether the last guess of the embeddings is an input ("Analog Bits", Chen et al., 2023).
        schedule: of the process. With it the evidence that each position has of its own token is read and added
            (`isocline.processes.embedding.log_evidence`): the Transformer sees the embedding that each position
            expects by itself, and has to learn the context alone. Without it the Transformer sees the state.
        lengths: learns the law of lengths, if texts are padded.
        condition_width: of a lean conditioning on time and class; see `Transformer`.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        dimension: int = 32,
        norm: float | None = 2.0,
        classes: int = 0,
        relative: bool = True,
        self_conditioning: bool = True,
        schedule: AbstractSchedule | None = None,
        lengths: LengthPredictor | None = None,
        condition_width: int | None = None,
    ) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one symbol and the mask token")
        if dimension < 1 or (norm is not None and not norm > 0):
            raise ValueError(f"dimension = {dimension}, norm = {norm}: need dimension >= 1 and norm above 0 or None")
        self.vocab_size = vocab_size
        self.length = length
        self.dimension = dimension
        self.norm = norm
        self.schedule = schedule
        self.takes_previous = self_conditioning
        self.embedding = nn.Parameter(torch.randn(vocab_size - 1, dimension) * dimension**-0.5)
        self.enter = nn.Linear(dimension, width)
        self.guess = nn.Linear(dimension, width, bias=False) if self_conditioning else None
        self.condition = ConditionEmbedding(condition_width or width, classes)
        self.trunk = Transformer(length, width, depth, heads, relative=relative, condition_width=condition_width)
        if self.guess is not None:
            nn.init.zeros_(self.guess.weight)
        self.head = nn.Linear(width, vocab_size)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.lengths = lengths

    def table(self) -> Tensor:
        """Embeddings of the real symbols, ``(V − 1, D)``."""
        return self.embedding if self.norm is None else self.norm * F.normalize(self.embedding, dim=-1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings ``(B, L, D)`` of real tokens ``(B, L)``."""
        return F.embedding(tokens, self.table())

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, previous: Tensor | None = None) -> Tensor:
        """Map states ``x`` ``(B, L, D)`` at ``t`` ``()`` or ``(B,)`` to logits ``(B, L, V)`` of the clean tokens.

        Args:
            t: times.
            x: states.
            cond: class labels ``(B,)``, negative for none, or None.
            previous: an earlier guess of the embeddings ``(B, L, D)``, or None.
        """
        evidence = None if self.schedule is None else log_evidence(x, self.table(), self.schedule(t))
        h = self.enter(x if evidence is None else self._expected(evidence))
        if self.guess is not None and previous is not None:
            h = h + self.guess(previous)
        logits: Tensor = self.head(self.trunk(h, self.condition(t, cond)))
        return logits if evidence is None else logits + F.pad(evidence, (0, 1)).to(logits.dtype)

    def _expected(self, evidence: Tensor) -> Tensor:
        """The embedding ``(B, L, D)`` that each position expects by its own evidence and the tokens' frequencies."""
        return (evidence + self.head.bias[:-1]).softmax(-1) @ self.table()
