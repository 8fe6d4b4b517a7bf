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
    "self_bleu",
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


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Mean BLEU of each text against all others as its references, in [0, 1]: how much a set repeats itself.

    The geometric mean of the clipped precisions of word 1- to n-grams, no smoothing (0 where some order has no match),
    times the brevity penalty against the reference of the nearest length, the shorter of two as near (Papineni et al.,
    2002; Zhu et al., "Texygen", 2018). Compare sets of the same size only: it rises with their number of texts.

    Args:
        texts: at least two.
        n: largest order.
    """
    words = [words_of(text) for text in texts]
    orders = [[_word_grams(line, order) for line in words] for order in range(1, n + 1)]
    most = [_two_largest(counts) for counts in orders]
    lengths = [len(line) for line in words]
    scores = []
    for index, line in enumerate(words):
        logs = 0.0
        for counts, largest in zip(orders, most, strict=True):
            own = counts[index]
            matched = sum(min(count, _elsewhere(largest[gram], count)) for gram, count in own.items())
            logs += math.log(matched / own.total()) if matched else -math.inf
        others = lengths[:index] + lengths[index + 1 :]
        nearest = min(others, key=lambda length: (abs(length - len(line)), length), default=0)
        brevity = min(0.0, 1.0 - nearest / len(line)) if line else -math.inf
        scores.append(math.exp(logs / n + brevity))
    return math.fsum(scores) / len(scores)


def _word_grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def _elsewhere(largest: tuple[int, int], own: int) -> int:
    """The largest count of a gram in the other texts, given the two largest of all and this text's."""
    return largest[1] if largest[0] == own else largest[0]


def _two_largest(counts: Iterable[Counter[tuple[str, ...]]]) -> dict[tuple[str, ...], tuple[int, int]]:
    """The two largest counts of each gram over all texts."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for count in counts:
        for gram, times in count.items():
            first, second = found.get(gram, (0, 0))
            found[gram] = (times, first) if times > first else (first, max(second, times))
    return found
