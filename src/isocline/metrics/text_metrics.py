"""Metrics of a set of texts, one class each: what an evaluation measures is a choice of configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from isocline.metrics.perplexity import corpus_perplexity
from isocline.metrics.text_statistics import dictionary_share, distinct_n, jensen_shannon, self_bleu, sequence_entropy

__all__ = [
    "AbstractTextMetric",
    "DictionaryShare",
    "DistinctWords",
    "Entropy",
    "GenerativePerplexity",
    "JensenShannon",
    "SelfBleu",
    "TextReference",
    "TextSet",
]


class TextSet(NamedTuple):
    """Sequences as tokens ``(N, L)`` int64 and as text."""

    tokens: Tensor
    texts: Sequence[str]


@dataclass(frozen=True)
class TextReference:
    """Real text and the judges.

    Attributes:
        judges: by name, a map from tokens ``(N, L)`` to negative log-likelihoods in nats ``(N,)``; never the model
            under test.
        decode: tokens ``(L,)`` to text.
        held_out: held-out texts.
        vocabulary: words of the training text.
    """

    judges: Mapping[str, Callable[[Tensor], Tensor]]
    decode: Callable[[Tensor], str]
    held_out: Sequence[str]
    vocabulary: frozenset[str]

    def see(self, tokens: Tensor) -> TextSet:
        """Decode sequences ``(N, L)``."""
        return TextSet(tokens, [self.decode(row) for row in tokens])


class AbstractTextMetric(ABC):
    """Maps a set of texts and the real text to named numbers."""

    @abstractmethod
    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure."""


class GenerativePerplexity(AbstractTextMetric):
    """``generative_perplexity`` per token under judge ``ar``; ``generative_perplexity_<judge>`` under another.

    Read it beside ``entropy`` only: a judge likes dull text.

    Args:
        judge: name of the judge.
    """

    def __init__(self, judge: str = "ar") -> None:
        self.judge = judge

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        if self.judge not in real.judges:
            raise ValueError(
                f"evaluation: judge = {self.judge!r}; the pipeline trains {', '.join(sorted(real.judges))}"
            )
        name = "generative_perplexity" if self.judge == "ar" else f"generative_perplexity_{self.judge}"
        return {name: corpus_perplexity(real.judges[self.judge](made.tokens), made.tokens.shape[1]).mean}


class Entropy(AbstractTextMetric):
    """``entropy``: mean entropy of a sequence's own token frequencies, nats."""

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {"entropy": float(sequence_entropy(made.tokens).mean())}


class JensenShannon(AbstractTextMetric):
    """``jensen_shannon``: divergence of character n-grams from held-out text, bits.

    Args:
        order: characters in a gram.
    """

    def __init__(self, order: int = 3) -> None:
        self.order = order

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {"jensen_shannon": jensen_shannon(made.texts, real.held_out, self.order)}


class DictionaryShare(AbstractTextMetric):
    """``dictionary_share``: share of generated words that the training text knows."""

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {"dictionary_share": dictionary_share(made.texts, real.vocabulary)}


class DistinctWords(AbstractTextMetric):
    """``distinct_<n>``: distinct word n-grams over all of the set.

    Args:
        orders: values of n.
    """

    def __init__(self, orders: Sequence[int] = (1, 2)) -> None:
        self.orders = tuple(orders)

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {f"distinct_{n}": distinct_n(made.texts, n) for n in self.orders}


class SelfBleu(AbstractTextMetric):
    """``self_bleu_<order>``: mean BLEU of each text against the others; high where the texts repeat one another.

    Args:
        order: largest order of word n-grams; few short texts share none of four words.
    """

    def __init__(self, order: int = 3) -> None:
        self.order = order

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made``; keys as the class says."""
        return {f"self_bleu_{self.order}": self_bleu(made.texts, self.order)}
