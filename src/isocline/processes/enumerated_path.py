"""The exact denoiser of a short, known law of tokens under a continuous relaxation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.token_path import AbstractTokenPath

__all__ = ["EnumeratedPathDenoiser"]


class EnumeratedPathDenoiser(nn.Module):
    """Logits log p(x_i = k | all positions of the view but i), by Bayes' rule over all sequences.

    Args:
        law: law of clean sequences, of as many symbols as the path has.
        path: the relaxation.
    """

    def __init__(self, law: EnumeratedLaw, path: AbstractTokenPath) -> None:
        super().__init__()
        self.law = law
        self.path = path

    def forward(self, t: Tensor, view: Tensor, cond: Any = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and views ``(B, L, S)``; ``(B, L, S)`` float64."""
        law = self.law
        evidence = self.path.evidence_in(t, view.double())
        index = law.sequences.T.expand(len(view), -1, -1)
        parts = evidence.gather(-1, index)  # (B, L, N)
        logits = torch.empty_like(evidence)
        for position in range(law.length):
            others = torch.cat([parts[:, :position], parts[:, position + 1 :]], dim=1).sum(1)
            joint = others + law.probs.log()
            for symbol in range(law.symbols):
                has = law.sequences[:, position] == symbol
                logits[:, position, symbol] = joint[:, has].logsumexp(-1)
        return logits
