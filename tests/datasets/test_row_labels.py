"""Labels of packed rows: the section in which a row's first token begins."""

import hashlib

import pytest
import torch

from isocline.datasets.book_groups import BOOK_GROUPS
from isocline.datasets.packing import pack, row_labels, split_text
from isocline.datasets.text import KingJames, Normalisation, Section, StateOfTheUnion
from isocline.datasets.tokenizer import CharacterTokenizer

MODULE = "bible = Bible(V.X, 'abcdefghij', {1001001: 0, 39002001: 4, 40001001: 7}, {}, {}, {}, {}, False)"


def test_books_have_the_classes_that_their_groups_say():
    testament, group = BOOK_GROUPS["testament"], BOOK_GROUPS["group"]
    assert [testament.of(book) for book in (1, 39, 40, 66)] == [0, 0, 1, 1]
    # Genesis, Deuteronomy, Joshua, Psalms, Isaiah, Matthew, Acts, Romans, Revelation.
    assert [group.of(book) for book in (1, 5, 6, 19, 23, 40, 44, 45, 66)] == [0, 0, 1, 2, 3, 4, 4, 5, 5]
    for names in BOOK_GROUPS.values():
        assert len(names.names) == len(names.last)
        assert list(names.last) == sorted(names.last)
    with pytest.raises(ValueError, match="book 67"):
        group.of(67)


@pytest.mark.parametrize("unit", ["chapter", "book"])
def test_sections_are_labelled_by_their_book(unit, tmp_path, monkeypatch):
    path = tmp_path / "bible.py"
    path.write_text(MODULE)
    monkeypatch.setattr(KingJames, "digest", hashlib.sha256(b"abcdefghij").hexdigest())
    data = KingJames(unit, str(path), labels="testament")
    assert data.classes == ("Old Testament", "New Testament")
    assert [data.label(section.name) for section in data.load()] == [0, 0, 1]


def test_text_without_labels_has_no_classes():
    assert KingJames().classes == StateOfTheUnion().classes == ()
    for data in (KingJames(), StateOfTheUnion()):
        with pytest.raises(ValueError, match="no classes"):
            data.label("1001")
    with pytest.raises(ValueError, match="labels = colour"):
        KingJames(labels="colour")


@pytest.mark.parametrize("normalise", [Normalisation(), Normalisation(one_line=True)], ids=["lines", "one-line"])
def test_a_row_has_the_label_of_the_section_in_which_it_begins(normalise):
    """Each section is a run of its own letter, so that a row's first character names its section."""
    sizes = (7, 12, 3, 20, 9, 1, 30)
    sections = [Section(str(k), chr(97 + k) * size) for k, size in enumerate(sizes)]
    stream = torch.Generator().manual_seed(0)
    splits = split_text(sections, {"train": 0.7, "test": 0.3}, normalise, "\n\n", stream)
    alphabet = sorted({c for split in splits.values() for c in split.text})
    tokenizer = CharacterTokenizer(len(alphabet) + 1).train(["".join(alphabet)], alphabet)
    for split in splits.values():
        for name, start in zip(split.sections, split.starts, strict=True):
            assert split.text[start] == chr(97 + int(name))
        packed = pack(split.text, tokenizer, 4)
        found = row_labels(split, packed, [int(name) for name in split.sections])
        assert found.dtype == torch.int64
        at = 0
        for row, label, characters in zip(packed.tokens, found, packed.characters, strict=True):
            before = split.text[: at + 1].rstrip()
            assert tokenizer.decode(row) == split.text[at : at + int(characters)]
            assert chr(97 + int(label)) == before[-1]
            at += int(characters)
