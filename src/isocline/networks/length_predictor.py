"""The law of the length of a text given its class, learned beside a network that fills a given length."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LengthPredictor"]


class LengthPredictor(nn.Module):
    """Pr(n | c) for n = 1 … L: one table of logits, a row for each class and one for "none".

    Source: *Non-Autoregressive Neural Machine Translation*, Gu et al., 2018, §3.2 (a predicted length, as a law).

    Args:
        length: longest length L.
        classes: number of classes, 0 for none.

    Raises:
        ValueError: if the length is not positive or the number of classes negative.
    """

    def __init__(self, length: int, classes: int = 0) -> None:
        super().__init__()
        if length < 1 or classes < 0:
            raise ValueError(f"length = {length}, classes = {classes}: need length >= 1 and classes >= 0")
        self.classes = classes
        self.logits = nn.Embedding(classes + 1, length)
        nn.init.zeros_(self.logits.weight)

    def forward(self, count: int, cond: Tensor | None = None) -> Tensor:
        """Log-probabilities of the lengths 1 … L, ``(count, L)``.

        Args:
            count: number of texts B.
            cond: classes ``(B,)``, negative for "none", or None.
        """
        none = torch.full((count,), self.classes, dtype=torch.int64, device=self.logits.weight.device)
        if cond is not None and self.classes:
            none = torch.where(cond < 0, none, cond)
        return self.logits(none).log_softmax(-1)  # type: ignore[no-any-return]
