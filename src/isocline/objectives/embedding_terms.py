"""The terms of which the loss of embedding diffusion is made: means over tokens that are not given, or over texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.objectives.sequence_likelihood import token_log_probs
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.rounding import SoftmaxRounding

__all__ = [
    "AbstractEmbeddingTerm",
    "EmbeddingPoint",
    "LengthTerm",
    "PriorTerm",
    "RegressionTerm",
    "RoundingTerm",
    "TokenTerm",
    "lengths_of",
]


class EmbeddingPoint(NamedTuple):
    """What the network was shown and what it said.

    Attributes:
        tokens: clean tokens ``(B, L)``.
        clean: their embeddings ``(B, L, D)``.
        log_probs: log p(x|x_t), ``(B, L, V)``.
        predicted: the embeddings that it expects, ``(B, L, D)``.
        table: all embeddings, ``(V − 1, D)``.
        open: positions that are not given, bool ``(B, L)``.
        cond: condition or None.
    """

    tokens: Tensor
    clean: Tensor
    log_probs: Tensor
    predicted: Tensor
    table: Tensor
    open: Tensor
    cond: Tensor | None

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``values`` ``(B, L)`` over the open positions."""
        return values.masked_fill(~self.open, 0.0).sum() / self.open.sum().clamp_min(1)


class AbstractEmbeddingTerm(ABC):
    """A term of the loss.

    Attributes:
        weight: its factor.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(
        self, network: nn.Module, process: EmbeddingProcess, point: EmbeddingPoint, generator: torch.Generator
    ) -> Tensor:
        """Return the term before its factor, a scalar."""


class TokenTerm(AbstractEmbeddingTerm):
    """−log p(x|x_t), the cross-entropy of the clean token (CDCD, Dieleman et al., 2022, §3.2).

    Its minimiser is the posterior of each token, whose mean embedding is the minimiser of the regression.
    """

    def __call__(
        self, network: nn.Module, process: EmbeddingProcess, point: EmbeddingPoint, generator: torch.Generator
    ) -> Tensor:
        """Nats per token."""
        return -point.mean(token_log_probs(point.log_probs, point.tokens))


class RegressionTerm(AbstractEmbeddingTerm):
    """|e(x) − f(x_t, t)|², the squared distance per token (Li et al., 2022, Eq. 2).

    Alone it is least where all embeddings are one point.
    """

    def __call__(
        self, network: nn.Module, process: EmbeddingProcess, point: EmbeddingPoint, generator: torch.Generator
    ) -> Tensor:
        """Squared distance per token."""
        return point.mean((point.clean - point.predicted).square().sum(-1))


class PriorTerm(AbstractEmbeddingTerm):
    """|α(t_max) e(x)|²: what is left of the data where generation starts (Li et al., 2022, App. E).

    A constant where the embeddings' norm is fixed.
    """

    def __call__(
        self, network: nn.Module, process: EmbeddingProcess, point: EmbeddingPoint, generator: torch.Generator
    ) -> Tensor:
        """Squared norm per token."""
        alpha = float(process.gaussian.schedule(process.gaussian.t_max).alpha)
        return alpha**2 * point.clean.square().sum(-1).mean()


class RoundingTerm(AbstractEmbeddingTerm):
    """−log p(x | e(x) + width ε), the cross-entropy of rounding; it keeps embeddings apart (Li et al., 2022, §4.1).

    Args:
        weight: its factor.
        width: standard deviation of what is rounded away.
    """

    def __init__(self, weight: float = 1.0, width: float = 0.1) -> None:
        super().__init__(weight)
        self.rounding = SoftmaxRounding(width)

    def __call__(
        self, network: nn.Module, process: EmbeddingProcess, point: EmbeddingPoint, generator: torch.Generator
    ) -> Tensor:
        """Nats per token."""
        noise = process.gaussian.noise(point.clean.shape, generator, point.clean.dtype)
        noisy = point.clean + self.rounding.width * noise
        return -token_log_probs(self.rounding.log_probs(noisy, point.table), point.tokens).mean()


class LengthTerm(AbstractEmbeddingTerm):
    """−log Pr(n|c) per text, of the network's `LengthPredictor` (``network.lengths``).

    Args:
        pad: token that fills up a text; n is the length before the trailing ones.
        weight: its factor.
    """

    def __init__(self, pad: int, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.pad = pad

    def __call__(
        self, network: nn.Module, process: EmbeddingProcess, point: EmbeddingPoint, generator: torch.Generator
    ) -> Tensor:
        """Nats per text.

        Raises:
            ValueError: if the network has no length predictor.
        """
        predictor = getattr(network, "lengths", None)
        if predictor is None:
            raise ValueError("a LengthTerm needs network.lengths: give the network a LengthPredictor")
        index = (lengths_of(point.tokens, self.pad) - 1).unsqueeze(-1)
        log_probs: Tensor = predictor(len(index), point.cond)
        return -log_probs.gather(-1, index).mean()


def lengths_of(tokens: Tensor, pad: int) -> Tensor:
    """Number of tokens before the trailing padding of each row of ``(B, L)``, at least 1; ``(B,)`` int64."""
    trailing = (tokens == pad).flip(-1).long().cumprod(-1).sum(-1)
    return (tokens.shape[-1] - trailing).clamp_min(1)
