"""How long a generated text is: all positions, up to an end token, or a length that is drawn first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from isocline.samplers.prompt import Prompt
from isocline.solvers.markov import draw_symbols

__all__ = ["AbstractTextLength", "EndToken", "FullLength", "PredictedLength"]


class AbstractTextLength(ABC):
    """What is known of the length before generation, and what is done about it after.

    Attributes:
        banned: token that may stand at no position left open, or None.
    """

    banned: int | None = None

    @abstractmethod
    def begin(self, network: nn.Module, given: Prompt, generator: torch.Generator, cond: Any) -> Prompt:
        """Return the given tokens, those that follow from the length included."""

    @abstractmethod
    def finish(self, tokens: Tensor) -> Tensor:
        """Return the finished tokens ``(B, L)``."""


class FullLength(AbstractTextLength):
    """Every position is text."""

    def begin(self, network: nn.Module, given: Prompt, generator: torch.Generator, cond: Any) -> Prompt:
        """Nothing follows."""
        return given

    def finish(self, tokens: Tensor) -> Tensor:
        """Leave the tokens alone."""
        return tokens


class EndToken(FullLength):
    """A text ends at its first end token; what comes after it becomes padding.

    Args:
        end: the end token, as in the training text.
        pad: token that fills up.
    """

    def __init__(self, end: int, pad: int) -> None:
        self.end = end
        self.pad = pad

    def finish(self, tokens: Tensor) -> Tensor:
        """Fill up from after the first end token."""
        ended = (tokens == self.end).long().cumsum(-1)
        after = (ended > 0) & ~((ended == 1) & (tokens == self.end))
        return tokens.masked_fill(after, self.pad)


class PredictedLength(FullLength):
    """Draw n ~ Pr(n|c) of the network's `LengthPredictor`; padding is given after n and banned before.

    Args:
        pad: token that fills up.
    """

    def __init__(self, pad: int) -> None:
        self.banned = pad

    def begin(self, network: nn.Module, given: Prompt, generator: torch.Generator, cond: Any) -> Prompt:
        """Draw a length for each text and give the padding after it, but where a prompt stands.

        Raises:
            ValueError: if the network has no length predictor.
        """
        predictor = getattr(network, "lengths", None)
        if predictor is None:
            raise ValueError("PredictedLength needs network.lengths: train the network with a LengthPredictor")
        count, length = given.tokens.shape
        lengths = draw_symbols(predictor(count, cond)[:, :length].double().softmax(-1), generator) + 1
        after = torch.arange(length, device=lengths.device) >= lengths.unsqueeze(-1)
        assert self.banned is not None
        padded = torch.where(after & ~given.fixed, self.banned, given.tokens)
        return Prompt(padded, given.fixed | after)
