"""Lay a prompt with gaps out on a window of tokens: which positions are given, and what stands there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.datasets.tokenizer import Tokenizer

__all__ = ["GAP", "PromptLayout", "lay_out", "merges_characters", "pieces_of"]

GAP = "___"
_GAP = re.compile(r"_{3,}")
_USUAL_GAP = 8


@dataclass(frozen=True)
class PromptLayout:
    """A window of tokens, some of them given.

    Attributes:
        tokens: ``(L,)`` int64; 0 where nothing is given.
        fixed: bool ``(L,)``, True where a token is given.
        late: the given pieces of text that stand behind a gap.
    """

    tokens: Tensor
    fixed: Tensor
    late: tuple[str, ...]

    @property
    def prompt(self) -> tuple[Tensor, Tensor] | None:
        """What a sampler takes; None if nothing is given."""
        return (self.tokens, self.fixed) if bool(self.fixed.any()) else None

    def leaps_over_blocks(self, size: int) -> bool:
        """Whether a given token stands in a later block of ``size`` tokens than an open one."""
        blocks = torch.arange(len(self.fixed)) // size
        first_open = blocks[~self.fixed].min()
        return bool((blocks[self.fixed] > first_open).any())


def pieces_of(prompt: str, normalise: Callable[[str], str], merges: bool) -> list[str]:
    """Split a prompt at its gaps and simplify every piece as the training text was.

    Args:
        prompt: text; three or more underscores are a gap.
        normalise: what the training text went through.
        merges: whether tokens join characters. Their words begin with the space before them: a space in front of a gap
            then belongs to what is written there.

    Returns:
        The pieces, one more than gaps; empty where nothing is given.
    """
    raw = _GAP.split(prompt)
    pieces = []
    for index, piece in enumerate(raw):
        text = normalise(piece) if piece else piece
        if index and piece[:1].isspace() and text and not text[:1].isspace():
            text = f" {text}"
        if index < len(raw) - 1:
            if merges:
                text = text.rstrip()
            elif piece[-1:].isspace() and text and not text[-1:].isspace():
                text = f"{text} "
        pieces.append(text)
    return pieces


def lay_out(
    pieces: Sequence[str], encode: Callable[[str], Tensor], length: int, longest: int, gap: int | None
) -> PromptLayout:
    """Place the pieces, gaps between them, at the start of a window; what is left behind the last one is open.

    Args:
        pieces: see `pieces_of`.
        encode: text to tokens.
        length: tokens of the window.
        longest: the most that ``length`` may be, for messages.
        gap: tokens of every gap; None for eight, or what fits.

    Raises:
        ValueError: if nothing stays open, or the gaps do not fit.
    """
    encoded = [encode(piece) for piece in pieces]
    while len(encoded) > 1 and not len(encoded[-1]):  # a gap at the end is the open rest of the window
        encoded.pop()
    given, gaps = sum(map(len, encoded)), len(encoded) - 1
    if given >= length:
        cure = f"shorten it or raise --length (at most {longest})"
        raise ValueError(f"--prompt takes {given} of {length} tokens; {cure}")
    room = (length - given) // gaps if gaps else 0
    if gaps and room < (gap or 1):
        asked = f"{gaps} gap{'s' if gaps > 1 else ''} of {gap or 1} token{'s' if (gap or 1) > 1 else ''}"
        cure = f"give --gap {room} at most" if room else f"shorten it or raise --length (at most {longest})"
        raise ValueError(f"--prompt: {given} given tokens and {asked} do not fit into {length}; {cure}")
    width = min(_USUAL_GAP, room) if gap is None else gap
    tokens, fixed = torch.zeros(length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool)
    at = 0
    for index, piece in enumerate(encoded):
        at += width if index else 0
        tokens[at : at + len(piece)] = piece
        fixed[at : at + len(piece)] = True
        at += len(piece)
    late = tuple(text for text, piece in zip(pieces[1:], encoded[1:], strict=False) if len(piece))
    return PromptLayout(tokens, fixed, late)


def merges_characters(tokenizer: Tokenizer) -> bool:
    """Whether some token stands for several characters."""
    return any(len(piece.decode("utf-8", errors="replace")) > 1 for piece in tokenizer.pieces)
