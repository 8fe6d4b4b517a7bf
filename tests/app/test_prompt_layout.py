"""Prompts are laid out on windows: pieces where they belong, gaps of the asked length, the rest open."""

from __future__ import annotations

import pytest
import torch

from isocline.app.prompt_layout import lay_out, merges_characters, pieces_of
from isocline.datasets.text import Normalisation
from isocline.datasets.tokenizer import BytePairTokenizer, CharacterTokenizer

TEXT = "in the beginning god created the heaven and the earth "
CHARACTERS = CharacterTokenizer(len(set(TEXT)) + 1).train([], TEXT)


def shown(layout):
    return "".join(CHARACTERS.decode(layout.tokens[i : i + 1]) if f else "." for i, f in enumerate(layout.fixed))


def laid(prompt, length=30, gap=None):
    return lay_out(pieces_of(prompt, str, merges=False), CHARACTERS.encode, length, 64, gap)


def test_a_prompt_without_a_gap_is_a_prefix():
    layout = laid("in the ", 12)
    assert shown(layout) == "in the ....."
    assert layout.late == ()


@pytest.mark.parametrize(
    ("prompt", "gap", "expected"),
    [
        ("in ___ god", 3, "in ... god" + "." * 20),
        ("in ___ god", None, "in ........ god" + "." * 15),
        ("___god", 2, "..god" + "." * 25),
        ("in ___ god ___ the", 4, "in .... god .... the" + "." * 10),
        ("in _____ god___", 1, "in . god" + "." * 22),
        ("in___", 5, "in" + "." * 28),
    ],
)
def test_gaps_stand_between_the_pieces(prompt, gap, expected):
    assert shown(laid(prompt, gap=gap)) == expected


def test_a_gap_without_a_length_takes_what_fits():
    assert shown(laid("in the ___ god ___ earth", 26)) == "in the .... god .... earth"[:26]
    assert shown(laid("in___god", 7)) == "in..god"


@pytest.mark.parametrize(
    ("prompt", "gap", "parts"),
    [
        ("in ___ god", 22, ["7 given tokens", "1 gap of 22", "do not fit into 28", "--gap 21 at most"]),
        ("in___the___god", 11, ["2 gaps of 11", "--gap 10 at most"]),
        (TEXT[:27] + "___g", None, ["28 of 28 tokens", "--length (at most 64)"]),
        (TEXT[:27] + "___", None, None),
        (TEXT[:26] + "___g___g", None, ["28 of 28"]),
        (TEXT[:25] + "___g___g", None, ["2 gaps of 1 token", "shorten it or raise --length"]),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(prompt, gap, parts):
    if parts is None:
        assert int(laid(prompt, 28, gap).fixed.sum()) == 27
        return
    with pytest.raises(ValueError, match="--prompt") as error:
        laid(prompt, 28, gap)
    assert all(part in str(error.value) for part in parts), error.value


def test_the_space_before_a_gap_belongs_to_the_word_where_tokens_join_characters():
    pairs = BytePairTokenizer(40).train([TEXT * 20], TEXT)
    assert merges_characters(pairs)
    assert not merges_characters(CHARACTERS)
    assert pieces_of("in the ___ god", str, merges=True) == ["in the", " god"]
    assert pieces_of("in the ___ god", str, merges=False) == ["in the ", " god"]


def test_pieces_are_simplified_and_keep_the_spaces_beside_gaps():
    letters = Normalisation(letters=True)
    assert pieces_of("In the ___ GOD!", letters, merges=False) == ["in the ", " god"]
    assert pieces_of("In the ___ GOD!", letters, merges=True) == ["in the", " god"]
    assert pieces_of("", letters, merges=True) == [""]


def test_a_given_token_behind_an_open_block_is_noticed():
    layout = laid("in ___ god", 30, gap=3)  # given: 0-2, 6-9
    assert layout.leaps_over_blocks(1)
    assert layout.leaps_over_blocks(5)
    assert not layout.leaps_over_blocks(10)
    assert not laid("in the").leaps_over_blocks(1)


def test_nothing_given_is_no_prompt():
    assert laid("").prompt is None
    tokens, fixed = laid("in").prompt
    assert torch.equal(tokens[fixed], CHARACTERS.encode("in"))
