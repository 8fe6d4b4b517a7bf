import pytest
import torch

from isocline.datasets.packing import pack, split_text
from isocline.datasets.text import Normalisation, Section
from isocline.datasets.tokenizer import MASK, BytePairTokenizer, CharacterTokenizer, Tokenizer

TEXT = "The quick brown fox — “jumps”\n\n over  the lazy dog; the fox, the dog. Æther’s end.\n" * 20


def bpe(size=80, text=TEXT):
    return BytePairTokenizer(size).train([text], sorted(set(text)))


def characters(text=TEXT):
    return CharacterTokenizer(len(set(text)) + 1).train([text], set(text))


@pytest.fixture(params=[bpe, characters], ids=["bytes", "characters"])
def tokenizer(request):
    return request.param()


def test_decoding_undoes_encoding(tokenizer):
    for text in (TEXT, " ", "", "\n\n", "xof  "[:3], "dog\n the", "’—Æ“"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_mask_is_the_last_token_and_no_text_gives_it(tokenizer):
    assert tokenizer.mask_index == tokenizer.vocab_size - 1
    assert int(tokenizer.encode(TEXT).max()) < tokenizer.mask_index
    with pytest.raises(ValueError, match=r"mask|no symbol"):
        tokenizer.encode(MASK)


def test_masks_show_in_decoded_text(tokenizer):
    tokens = torch.cat([tokenizer.encode("fox"), torch.tensor([tokenizer.mask_index]), tokenizer.encode("dog")])
    assert tokenizer.decode(tokens) == "fox▒dog"
    assert tokenizer.decode(tokens, mask="") == "foxdog"


def test_a_character_outside_the_alphabet_is_named(tokenizer):
    with pytest.raises(ValueError, match="'ß'"):
        tokenizer.encode("the ßox")


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.pieces == tokenizer.pieces
    assert torch.equal(loaded.encode(TEXT), tokenizer.encode(TEXT))


def test_the_file_is_one_that_its_library_reads(tokenizer, tmp_path):
    from tokenizers import Tokenizer as Library

    tokenizer.save(tmp_path / "tokenizer.json")
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    tokens = tokenizer.encode(TEXT)
    assert library.encode(TEXT).ids == tokens.tolist()
    assert library.decode(tokens.tolist()) == TEXT


def test_training_again_gives_the_same_bytes(tmp_path):
    assert bpe().save(tmp_path / "a") == bpe().save(tmp_path / "b")


def test_byte_pairs_learn_words():
    assert b" the" in bpe().pieces
    assert len(bpe().encode(TEXT)) < len(TEXT) / 2


def test_a_vocabulary_that_the_text_cannot_fill_is_refused():
    with pytest.raises(ValueError, match=r"set data\.text\.vocab_size=\d+"):
        bpe(size=5000)
    with pytest.raises(ValueError, match="choose more than"):
        bpe(size=10)
    with pytest.raises(ValueError, match=r"vocab_size = 9, but .* set data\.text\.vocab_size=4"):
        CharacterTokenizer(9).train(["abc"], "abc")


def test_a_missing_or_damaged_file_names_the_cure(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_characters_of_rows_add_up_to_the_text_even_where_a_row_cuts_a_character(tokenizer):
    text = "—’Æ" * 40
    packed = pack(text, tokenizer, 4)
    covered = tokenizer.encode(text)[: packed.tokens.numel()]
    assert int(packed.characters.sum()) == len(text) - packed.dropped
    assert int(packed.characters.sum()) == len(tokenizer.decode(covered).rstrip("\ufffd")) + (
        tokenizer.decode(covered).endswith("\ufffd")
    )
    assert torch.equal(packed.characters, torch.stack([tokenizer.characters(row) for row in packed.tokens]))


def test_rows_follow_each_other_without_gaps(tokenizer):
    packed = pack(TEXT, tokenizer, 7)
    tokens = tokenizer.encode(TEXT)
    assert torch.equal(packed.tokens.flatten(), tokens[: packed.tokens.numel()])
    assert len(tokens) - packed.tokens.numel() < 7


def test_a_text_shorter_than_a_row_is_refused(tokenizer):
    with pytest.raises(ValueError, match="choose shorter rows"):
        pack("the", tokenizer, 64)


def test_no_section_is_in_two_splits_and_none_is_lost():
    sections = [Section(f"{i}", f"<{i}> " + "word " * (i % 7 + 1)) for i in range(200)]
    shares = {"train": 0.6, "judge": 0.3, "test": 0.1}
    splits = split_text(sections, shares, Normalisation(), "\n", torch.Generator().manual_seed(0))
    found = [name for split in splits.values() for name in split.sections]
    assert sorted(found) == sorted(section.name for section in sections)
    for split in splits.values():
        assert all(f"<{name}>" in split.text for name in split.sections)
        assert split.text.count("<") == len(split.sections)
