"""Tokenizers that lose nothing: ``decode(encode(x)) == x``, or an error that names the character.

The mask token is the last of the vocabulary, index V - 1; no text encodes to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from isocline.datasets.storage import write_bytes

__all__ = ["BytePairTokenizer", "CharacterTokenizer", "Tokenizer", "TokenizerTrainer"]

MASK = "<|mask|>"
MASK_SHOWN = "▒"


def _byte_alphabet() -> dict[int, str]:
    """Map each byte to the printable character that stands for it in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_SYMBOL = _byte_alphabet()
SYMBOL_TO_BYTE = {symbol: byte for byte, symbol in BYTE_TO_SYMBOL.items()}


class Tokenizer:
    """A trained tokenizer.

    Attributes:
        vocab_size: V, the mask included.
        mask_index: V - 1.
        pieces: the UTF-8 bytes of each token; empty for the mask.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.mask_index = self.vocab_size - 1
        if backend.token_to_id(MASK) != self.mask_index:
            raise ValueError(f"the last token of the tokenizer is not {MASK}; train it with isocline's prepare-text")
        symbols = [backend.id_to_token(index) or "" for index in range(self.mask_index)]
        self._characters = isinstance(backend.model, models.WordLevel)
        encoded = [s.encode() if self._characters else bytes(SYMBOL_TO_BYTE[c] for c in s) for s in symbols]
        self.pieces: list[bytes] = [*encoded, b""]
        # bytes 10xxxxxx continue a character: a character belongs to the token that holds its first byte
        starts = [sum(byte & 0xC0 != 0x80 for byte in piece) for piece in self.pieces]
        self._starts = torch.tensor(starts, dtype=torch.int64)
        self._index = {symbol: index for index, symbol in enumerate(symbols)} if self._characters else {}

    @classmethod
    def load(cls, path: Path | str) -> Tokenizer:
        """Read ``tokenizer.json``.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: if it cannot be parsed or was made by something else.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; run `dvc repro prepare-text` to make it, or `dvc pull`")
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the binding raises a bare Exception
            raise ValueError(f"{path} is damaged ({error}); delete it and run `dvc repro prepare-text`") from error
        return cls(backend)

    def save(self, path: Path) -> str:
        """Write ``tokenizer.json`` atomically; return its sha256."""
        return write_bytes(path, (self._backend.to_str(pretty=True) + "\n").encode())

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, ``(n,)`` int64.

        Raises:
            ValueError: if the text holds a character that the vocabulary cannot express, or the mask's own name.
        """
        if self._characters:
            return self._encode_characters(text)
        tokens = torch.tensor(self._backend.encode(text).ids, dtype=torch.int64)
        if (tokens == self.mask_index).any():
            raise ValueError(f"the text holds {MASK}, which is the name of the mask token; remove it")
        if self.decode(tokens) != text:
            known = {byte for piece in self.pieces for byte in piece}
            strange = sorted({c for c in text if not set(c.encode()) <= known})
            raise ValueError(self._complaint(strange))
        return tokens

    def _encode_characters(self, text: str) -> Tensor:
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        distinct, inverse = np.unique(points, return_inverse=True)
        strange = [chr(point) for point in distinct if chr(point) not in self._index]
        if strange:
            raise ValueError(self._complaint(strange))
        table = np.array([self._index[chr(point)] for point in distinct], dtype=np.int64)
        return torch.from_numpy(table[inverse]) if len(points) else torch.zeros(0, dtype=torch.int64)

    def _complaint(self, strange: Sequence[str]) -> str:
        shown = " ".join(repr(c) for c in strange[:10])
        return f"the tokenizer has no symbol for {shown}; it knows only characters of its training data: remove them"

    def decode(self, tokens: Tensor, mask: str = MASK_SHOWN) -> str:
        """Return the text of one sequence ``(L,)``; masks show as ``mask``, halves of characters as U+FFFD."""
        if tokens.ndim != 1:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected (L,), or use decode_batch")
        pieces = [*self.pieces[:-1], mask.encode()]
        return b"".join(pieces[index] for index in tokens.tolist()).decode("utf-8", errors="replace")

    def decode_batch(self, tokens: Tensor, mask: str = MASK_SHOWN) -> list[str]:
        """Return the texts of sequences ``(N, L)``."""
        return [self.decode(row, mask) for row in tokens]

    def characters(self, tokens: Tensor) -> Tensor:
        """Count the characters that start in each sequence: ``(…, L)`` to ``(…,)`` int64.

        A character whose bytes fall into two tokens counts where its first byte is, so that counts of consecutive
        sequences add up to the length of the text.
        """
        return self._starts[tokens].sum(dim=-1)


@dataclass(frozen=True)
class TokenizerTrainer(ABC):
    """Makes a tokenizer out of a text.

    Attributes:
        vocab_size: V, the mask included.
    """

    vocab_size: int

    @abstractmethod
    def train(self, texts: Sequence[str], alphabet: Iterable[str]) -> Tokenizer:
        """Train.

        Args:
            texts: the training split.
            alphabet: all characters that must be expressible (those of every split, which leaks no order).

        Raises:
            ValueError: if the vocabulary does not come out at ``vocab_size``.
        """

    def _finish(self, backend: Backend) -> Tokenizer:
        backend.add_special_tokens([MASK])
        tokenizer = Tokenizer(backend)
        if tokenizer.vocab_size != self.vocab_size:
            raise ValueError(
                f"tokenizer.vocab_size = {self.vocab_size}, but the text gives {tokenizer.vocab_size} tokens with "
                f"the mask; set data.text.vocab_size={tokenizer.vocab_size}"
            )
        return tokenizer


@dataclass(frozen=True)
class BytePairTokenizer(TokenizerTrainer):
    """Byte-pair encoding over bytes (Sennrich, Haddow and Birch, 2016), merges inside words only.

    Only bytes that occur in the alphabet get a symbol: on English text that saves some 170 of the 256, which a small
    vocabulary can use for words.
    """

    def train(self, texts: Sequence[str], alphabet: Iterable[str]) -> Tokenizer:
        """Train on the texts; ties between pairs are broken by the library in a fixed order."""
        symbols = sorted({BYTE_TO_SYMBOL[byte] for character in alphabet for byte in character.encode()})
        if self.vocab_size < len(symbols) + 1:
            raise ValueError(
                f"tokenizer.vocab_size = {self.vocab_size}: the text has {len(symbols)} bytes and needs the mask too; "
                f"choose more than {len(symbols)}"
            )
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1, initial_alphabet=symbols, special_tokens=[], show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        return self._finish(backend)


@dataclass(frozen=True)
class CharacterTokenizer(TokenizerTrainer):
    """One token for each character, in code-point order."""

    def train(self, texts: Sequence[str], alphabet: Iterable[str]) -> Tokenizer:
        """Number the characters; ``texts`` do not matter."""
        vocabulary = {character: index for index, character in enumerate(sorted(set(alphabet)))}
        backend = Backend(models.WordLevel(vocabulary, unk_token=MASK))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        backend.decoder = decoders.Fuse()
        return self._finish(backend)
