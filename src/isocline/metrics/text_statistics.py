"""Statistics of generated text that a judge's perplexity alone would not show: low entropy flatters perplexity."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import Tensor

__all__ = [
    "dictionary_share",
    "distinct_n",
    "jensen_shannon",
    "sequence_entropy",
    "vocabulary_of",
    "words_of",
]

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def sequence_entropy(tokens: Tensor) -> Tensor:
    """Entropy of each sequence's own token frequencies, nats, shape ``(N,)`` float64.

    ``-sum_v p_v ln p_v`` with p_v the share of token v in the sequence: between 0 (one token repeated) and ln L.

    Args:
        tokens: shape ``(N, L)`` int64.
    """
    length = tokens.shape[1]
    ordered, _ = tokens.sort(dim=1)
    same = ordered[:, :, None] == ordered[:, None, :]
    count = same.sum(dim=2).double()
    return -(count / length).log().mean(dim=1)


def words_of(text: str, *, whole: bool = False) -> list[str]:
    """Lower-case words of a text.

    Args:
        text: any text.
        whole: leave out the first and the last word, which a window may have cut.
    """
    words = _WORD.findall(text.lower())
    return words[1:-1] if whole else words


def vocabulary_of(texts: Iterable[str]) -> frozenset[str]:
    """Words that occur in some text (windows' cut words left out)."""
    return frozenset(word for text in texts for word in words_of(text, whole=True))


def dictionary_share(texts: Iterable[str], vocabulary: frozenset[str]) -> float:
    """Share of generated words that the training text knows; 0 when there are no words at all."""
    words = [word for text in texts for word in words_of(text, whole=True)]
    return sum(word in vocabulary for word in words) / len(words) if words else 0.0


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct word n-grams over all word n-grams of the set (Li et al., "A diversity-promoting objective", 2016).

    It falls as the amount of text grows: compare sets of the same size only.
    """
    grams = [gram for text in texts for gram in zip(*(words_of(text)[i:] for i in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _character_grams(texts: Iterable[str], n: int) -> Counter[str]:
    return Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1))


def jensen_shannon(texts: Sequence[str], reference: Sequence[str], n: int = 3) -> float:
    """Jensen-Shannon divergence of character n-gram frequencies, bits, in [0, 1].

    ``(KL(p | m) + KL(q | m)) / 2`` with ``m = (p + q) / 2`` (Lin, "Divergence measures based on the Shannon
    entropy", 1991). Characters, so that models with different tokenizers can be compared. Finite sets of the same
    law do not give 0: read it beside the held-out floor.

    Raises:
        ValueError: if a side holds no n-gram.
    """
    left, right = _character_grams(texts, n), _character_grams(reference, n)
    total_left, total_right = left.total(), right.total()
    if not total_left or not total_right:
        raise ValueError(f"no character {n}-grams on one side; the texts are empty or shorter than {n} characters")
    divergence = 0.0
    for gram in {**left, **right}:  # in order of appearance: a set's order changes from process to process
        p, q = left[gram] / total_left, right[gram] / total_right
        middle = (p + q) / 2
        divergence += sum(0.5 * part * math.log2(part / middle) for part in (p, q) if part > 0)
    return divergence
