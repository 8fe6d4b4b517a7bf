"""From sections to rows of tokens: split, tokenise, pack."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.datasets.splits import assign_sections
from isocline.datasets.text import Normalisation, Section
from isocline.datasets.tokenizer import Tokenizer

__all__ = ["PackedText", "SplitText", "pack", "row_labels", "split_text"]


@dataclass(frozen=True)
class SplitText:
    """The text of one split.

    Attributes:
        text: its sections, in document order, joined by the separator.
        sections: their names.
        starts: index of each one's first character.
    """

    text: str
    sections: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class PackedText:
    """Rows of tokens, cut from one stream without gaps.

    Attributes:
        tokens: ``(N, L)`` int64.
        characters: ``(N,)`` int64; sums to the characters of the text minus ``dropped``.
        dropped: characters of the last, incomplete row, which is left out.
    """

    tokens: Tensor
    characters: Tensor
    dropped: int


def split_text(
    sections: Sequence[Section],
    shares: Mapping[str, float],
    normalise: Normalisation,
    separator: str,
    generator: torch.Generator,
) -> dict[str, SplitText]:
    """Simplify the sections and deal them out whole to the splits (see `splits.assign_sections`)."""
    texts = [normalise(section.text) for section in sections]
    chosen = assign_sections([len(text) for text in texts], shares, generator)
    gap = len(normalise.join(["", ""], separator))

    def joined(indices: Sequence[int]) -> SplitText:
        ends = itertools.accumulate((len(texts[i]) + gap for i in indices), initial=0)
        starts = tuple(end for end, _ in zip(ends, indices, strict=False))
        text = normalise.join([texts[i] for i in indices], separator)
        return SplitText(text, tuple(sections[i].name for i in indices), starts)

    return {name: joined(indices) for name, indices in chosen.items()}


def pack(text: str, tokenizer: Tokenizer, length: int) -> PackedText:
    """Encode a text and cut it into rows; no padding, no end-of-text token, the incomplete last row left out.

    Args:
        text: of one split.
        tokenizer: that encodes it.
        length: tokens in a row, L.

    Raises:
        ValueError: if ``length`` is not positive or the text does not fill one row.
    """
    if length < 1:
        raise ValueError(f"length = {length}: must be at least 1")
    tokens = tokenizer.encode(text)
    rows = len(tokens) // length
    if rows == 0:
        raise ValueError(f"length = {length}: the text has only {len(tokens)} tokens; choose shorter rows")
    packed = tokens[: rows * length].view(rows, length)
    characters = tokenizer.characters(packed)
    return PackedText(packed, characters, len(text) - int(characters.sum()))


def row_labels(split: SplitText, packed: PackedText, labels: Sequence[int]) -> Tensor:
    """Label each row by the section in which its first token begins; ``(N,)`` int64.

    A row may run on into the next section, whose label it does not get.

    Args:
        split: the text.
        packed: its rows.
        labels: of the sections, in order.
    """
    first = packed.characters.cumsum(0) - packed.characters
    section = torch.searchsorted(torch.tensor(split.starts), first, right=True) - 1
    return torch.tensor(list(labels), dtype=torch.int64)[section]
