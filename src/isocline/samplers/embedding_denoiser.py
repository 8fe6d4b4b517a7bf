"""A network that names tokens, as a denoiser of their embeddings: what every continuous sampler works with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.embedding import EmbeddingProcess, ask, expected_embedding
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction, DataPrediction, convert
from isocline.processes.rounding import NearestRounding
from isocline.samplers.clipping import AbstractThreshold
from isocline.samplers.prompt import Prompt
from isocline.samplers.token_law import Sharpening

__all__ = ["ClampedEmbeddings", "EmbeddingDenoiser"]


class EmbeddingDenoiser(AbstractDenoiser):
    """x_0 is the embedding expected under the network's law of tokens; at given positions, the given token's.

    The last expectation is kept and handed to a self-conditioned network at the next call, apart for calls with and
    without a condition. It holds the given embeddings from the first call on. One object serves one run of a sampler.

    Args:
        network: see `isocline.processes.embedding.EmbeddingProcess`.
        process: its process.
        given: given tokens, which are imposed on every prediction.
        sharpening: of the law of tokens.
        banned: a token that no open position may be (padding, where lengths are given), or None.
    """

    def __init__(
        self,
        network: nn.Module,
        process: EmbeddingProcess,
        given: Prompt,
        sharpening: Sharpening,
        banned: int | None = None,
    ) -> None:
        self.network = network
        self.embedding_process = process
        self.given = given
        self.sharpening = sharpening
        self.banned = banned
        self.table: Tensor = network.table()  # type: ignore[operator]
        self._held = given.fixed.unsqueeze(-1)
        self._target: Tensor = network.embed(given.tokens)  # type: ignore[operator]
        self._previous: dict[bool, Tensor] = {}

    @property
    def process(self) -> GaussianProcess:
        """The process of the embeddings."""
        return self.embedding_process.gaussian

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    def law(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        """The law of tokens, ``(B, L, V)`` float64, at states ``(B, L, D)``; one network evaluation."""
        previous = self._previous.get(cond is None)
        if previous is None:
            previous = self._impose(torch.zeros_like(x))
        logits = ask(self.network, t, x, cond, previous)
        if self.banned is not None:
            logits = logits.index_fill(-1, torch.tensor([self.banned], device=logits.device), -torch.inf)
        return self.sharpening(self.embedding_process.clean_log_probs(logits))

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Ask the network once and convert; see the base class."""
        expected = self._impose(expected_embedding(self.law(t, x, cond), self.table).to(x.dtype))
        self._previous[cond is None] = expected
        return convert(expected, x, self.process.schedule(t), DataPrediction(), to)

    def _impose(self, embeddings: Tensor) -> Tensor:
        return torch.where(self._held, self._target.to(embeddings.dtype), embeddings)


class ClampedEmbeddings(AbstractThreshold):
    """Move each predicted embedding to the nearest token's: every step commits to words (Li et al., 2022, §4.2).

    Args:
        denoiser: predicts embeddings.
    """

    def __init__(self, denoiser: EmbeddingDenoiser) -> None:
        super().__init__(denoiser)
        self.table = denoiser.table
        self.rounding = NearestRounding()

    def bound(self, data: Tensor) -> Tensor:
        """Return the nearest embeddings; those of tokens stay as they are, and what is NaN stays NaN."""
        table = self.table.to(data.dtype)
        nearest = table[self.rounding.log_probs(data, table).argmax(-1)]
        return nearest.masked_fill(data.isnan().any(-1, keepdim=True), torch.nan)
