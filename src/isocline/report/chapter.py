"""A chapter of the page as plain values, which the template lays out the same way for all."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from isocline.report.charts import Chart
from isocline.report.sources import Sources
from isocline.report.tables import Table

__all__ = ["Chapter", "ChapterOf", "Part", "Plate"]


@dataclass(frozen=True)
class Plate:
    """A picture of a part.

    Attributes:
        title: what stands above it.
        data: PNG bytes.
        alt: text for readers who cannot see it.
        width: pixels across.
        height: pixels down.
        note: what stands below it.
        pixelated: drawn without smoothing, for sheets of small images.
    """

    title: str
    data: bytes
    alt: str
    width: int
    height: int
    note: str = ""
    pixelated: bool = False

    @property
    def uri(self) -> str:
        """The picture as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True)
class Part:
    """A stretch of a chapter: of one model, or one question.

    Attributes:
        heading: its title; empty for none.
        findings: sentences that say what the numbers say.
        charts: drawn side by side where there is room.
        tables: below them.
        plates: pictures, last.
    """

    heading: str = ""
    findings: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    plates: tuple[Plate, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """A chapter.

    Attributes:
        anchor: its place in the page's address.
        nav: its name in the page's navigation.
        title: its heading.
        lede: what it is about, in a few sentences.
        parts: what it holds.
    """

    anchor: str
    nav: str
    title: str
    lede: str
    parts: tuple[Part, ...]


ChapterOf = Callable[[Sources], Chapter | None]
"""What a chapter's module offers: the chapter, or None where its studies have not run."""
