"""Classes of the books of the King James text, for models that are told what they write."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

__all__ = ["BOOK_GROUPS", "BookGroups"]


@dataclass(frozen=True)
class BookGroups:
    """Consecutive books under one name.

    Attributes:
        names: of the classes, in the order of the books.
        last: number of the last book of each, the first book being 1.
    """

    names: tuple[str, ...]
    last: tuple[int, ...]

    def of(self, book: int) -> int:
        """Class of a book.

        Raises:
            ValueError: if there is no such book.
        """
        if not 1 <= book <= self.last[-1]:
            raise ValueError(f"book {book}: the books are numbered 1 to {self.last[-1]}")
        return bisect.bisect_left(self.last, book)


BOOK_GROUPS: dict[str, BookGroups] = {
    "testament": BookGroups(("Old Testament", "New Testament"), (39, 66)),
    "group": BookGroups(
        ("Law", "History", "Poetry", "Prophets", "Gospels and Acts", "Letters and Revelation"), (5, 17, 22, 39, 44, 66)
    ),
}
"""What a label may be, by name."""
