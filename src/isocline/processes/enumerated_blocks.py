"""The exact predictor of block diffusion for a law that is known exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.processes.enumerated import EnumeratedLaw

__all__ = ["EnumeratedBlocks"]


class EnumeratedBlocks(nn.Module):
    """Logits log p(x_i = k | z^k, x^{<k}) under an absorbing kernel, by Bayes' rule over all sequences.

    Args:
        law: law of clean sequences.
        block_length: tokens per block b.

    Raises:
        ValueError: if the blocks do not divide the sequence.
    """

    def __init__(self, law: EnumeratedLaw, block_length: int) -> None:
        super().__init__()
        if block_length < 1 or law.length % block_length:
            raise ValueError(f"block_length = {block_length} does not divide length = {law.length}; choose a divisor")
        self.law = law
        self.block_length = block_length
        self.length = law.length

    def forward(
        self, t: Any, z: Tensor, cond: Any = None, clean: Tensor | None = None, where: Tensor | None = None
    ) -> Tensor:
        """As `isocline.networks.block_transformer.BlockTransformer`; ``(B, L, V)`` or ``(m, V)`` float64."""
        law = self.law
        onehot = F.one_hot(law.sequences, law.vocab_size).double()
        fits = (z.unsqueeze(1) == law.sequences) | (z == law.symbols).unsqueeze(1)
        before = fits if clean is None else clean.unsqueeze(1) == law.sequences
        parts = []
        for start in range(0, law.length, self.block_length):
            block = slice(start, start + self.block_length)
            joint = law.probs * before[..., :start].all(-1) * fits[..., block].all(-1)
            posterior = joint / joint.sum(-1, keepdim=True)
            parts.append(torch.einsum("bn,nlv->blv", posterior, onehot[:, block]))
        logits = torch.cat(parts, dim=1).log()
        return logits if where is None else logits[where]
