"""A Transformer over soft tokens: laws of tokens in, logits of tokens out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.networks.embedding import ConditionEmbedding
from isocline.networks.transformer import Transformer

__all__ = ["SoftTokenTransformer"]


class SoftTokenTransformer(nn.Module):
    """A bidirectional Transformer fed the mean embedding of every position's law of tokens, conditioned on time.

    Input and output embeddings are one table, read through a linear map of its own on the way in: tied outright, a
    position's own token comes out again, and unlearning that delays the learning of context
    (docs/results/language-relaxations.md).

    A law is over the S = V − 1 real symbols. How sure it is, Σ p², enters along a direction of its own, since the mean
    embedding of an even law is nearly 0 and layer norms would hide that.

    Args:
        vocab_size: vocabulary V, the mask token counted.
        length: longest sequence L.
        width: embedding width D.
        depth: number of blocks.
        heads: attention heads.
        classes: number of class labels, 0 for none.
        relative: whether attention has a learned bias by distance.
        self_conditioning: take an earlier prediction of the tokens ("Analog Bits", Chen et al., 2023) beside the state.
            It adds nothing at first.
        end_time: take a second time s ≤ t, the end of a flow map; see `isocline.processes.flow_map`.
        time_blur: smooth in time, for objectives that differentiate in it; see `isocline.networks.embedding`.
        condition_width: of a lean conditioning on time and class; see `Transformer`.

    Raises:
        ValueError: if there are not two real symbols (and what `Transformer` raises).
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        relative: bool = True,
        self_conditioning: bool = False,
        end_time: bool = False,
        time_blur: float = 0.0,
        condition_width: int | None = None,
    ) -> None:
        super().__init__()
        if vocab_size < 3:
            raise ValueError(f"vocab_size = {vocab_size}: needs two real symbols and the mask token (so 3)")
        self.vocab_size = vocab_size
        self.length = length
        self.takes_end = end_time
        self.takes_previous = self_conditioning
        self.embed = nn.Embedding(vocab_size - 1, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.read = nn.Linear(width, width, bias=False)
        self.certainty = nn.Parameter(0.02 * torch.randn(width))
        self.previous = nn.Linear(width, width) if self_conditioning else None
        if self.previous is not None:
            nn.init.zeros_(self.previous.weight)
            nn.init.zeros_(self.previous.bias)
        self.condition = ConditionEmbedding(condition_width or width, classes, end_time, time_blur)
        self.trunk = Transformer(length, width, depth, heads, relative=relative, condition_width=condition_width)
        self.bias = nn.Parameter(torch.zeros(vocab_size - 1))

    def forward(
        self,
        t: Tensor,
        x: Tensor,
        cond: Tensor | None = None,
        s: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Tensor:
        """Map laws of tokens to logits of the clean tokens.

        Args:
            t: times ``()`` or ``(B,)``.
            x: laws ``(B, L, S)``.
            cond: class labels ``(B,)`` or None.
            s: end times of a flow map, t by default.
            previous: an earlier prediction, a law ``(B, L, S)``, or None; of use with self-conditioning alone.

        Returns:
            ``(B, L, S)``.
        """
        table = self.embed.weight
        h = self.read(x.to(table.dtype) @ table)
        h = h + x.to(table.dtype).square().sum(-1, keepdim=True) * self.certainty
        if self.previous is not None and previous is not None:
            h = h + self.previous(previous.to(table.dtype) @ table)
        return F.linear(self.trunk(h, self.condition(t, cond, s)), table, self.bias)
