"""Self-attention, its learned bias by distance and its cache of keys and values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "KeyValueCache", "RelativeBias"]


class KeyValueCache(NamedTuple):
    """Keys and values of the tokens seen so far, one pair per block, each ``(B, heads, L, D/heads)``."""

    keys: list[Tensor]
    values: list[Tensor]


class RelativeBias(nn.Module):
    """A learned bias of attention logits per head and signed distance j − i (T5, Raffel et al., 2020, §2.1).

    It begins at −slope |j − i − offset| (ALiBi, Press et al., 2022, with a direction): head 0 looks at the left
    neighbour, head 1 at the right one, the others at ever wider surroundings. From zero, a bidirectional network
    stays at unigram frequencies for more than a thousand steps (docs/results/relative-bias.md).

    Args:
        heads: attention heads.
        length: longest sequence L.
    """

    def __init__(self, heads: int, length: int) -> None:
        super().__init__()
        self.length = length
        distance = torch.arange(1 - length, length, dtype=torch.float32)
        offsets = torch.tensor([-1.0, 1.0, *[0.0] * heads][:heads])
        slopes = torch.tensor([2.0, 2.0, *(2.0 * 4.0**-k for k in range(1, heads))][:heads])
        self.table = nn.Parameter(-slopes[:, None] * (distance - offsets[:, None]).abs())

    def forward(self, length: int) -> Tensor:
        """Return the bias ``(heads, length, length)``, queries first."""
        i = torch.arange(length, device=self.table.device)
        return self.between(i, i)

    def between(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias of positions ``queries`` ``(Q,)`` towards ``keys`` ``(K,)``, ``(heads, Q, K)``."""
        return self.table[:, keys - queries[:, None] + self.length - 1]


class Attention(nn.Module):
    """Multi-head self-attention, bidirectional or causal; bidirectional with a relative bias where one is given."""

    def __init__(self, width: int, heads: int, causal: bool, bias: RelativeBias | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.bias = bias
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project ``(B, L, D)`` to queries, keys and values, each ``(B, heads, L, D/heads)``."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Attend within a sequence; ``(B, L, D)`` to ``(B, L, D)``."""
        q, k, v = self.split(x)
        mask = None if self.bias is None else self.bias(x.shape[1]).to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(x.shape))

    def mask(self, queries: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        """What is added to the logits between positions: the bias where there is one, −∞ where nothing is visible.

        Args:
            queries: positions ``(Q,)``.
            keys: positions ``(K,)``; they may repeat.
            visible: bool ``(Q, K)``.

        Returns:
            ``(Q, K)``, or ``(heads, Q, K)`` with a relative bias.
        """
        hidden = torch.zeros_like(visible, dtype=self.out.weight.dtype).masked_fill(~visible, -torch.inf)
        return hidden if self.bias is None else self.bias.between(queries, keys) + hidden
