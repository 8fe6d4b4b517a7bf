"""Frequencies and context embeddings of prepared tokens."""

import pytest
import torch
from safetensors.torch import save_file

from isocline.datasets.token_statistics import context_embeddings, token_frequencies


@pytest.fixture
def written(tmp_path):
    def write(tokens, name="tokens"):
        save_file({name: torch.as_tensor(tokens)}, tmp_path / "train.safetensors")
        return tmp_path / "train.safetensors"

    return write


def test_frequencies_are_counts_with_one_more_for_every_symbol(written):
    found = token_frequencies(written([[0, 1, 1], [1, 3, 0]]), 5)
    assert found.tolist() == pytest.approx([0.3, 0.4, 0.1, 0.2])


def test_symbols_of_equal_contexts_have_equal_embeddings(written):
    """1 and 2 always stand between 0 and 3; 4 stands elsewhere."""
    middle = torch.tensor([1, 2]).repeat(50)
    rows = torch.stack([torch.zeros(100).long(), middle, torch.full((100,), 3), torch.full((100,), 4)], dim=1)
    found = context_embeddings(written(rows), 6, width=3, window=1)
    assert found.shape == (5, 3)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(5).double())
    distance = torch.cdist(found, found)
    assert distance[1, 2] < 1e-6
    assert distance[1, 4] > 0.5


def test_what_is_not_prepared_text_is_refused(written, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        token_frequencies(tmp_path / "none.safetensors", 5)
    with pytest.raises(ValueError, match="no rows of `tokens`"):
        token_frequencies(written([[1]], name="images"), 5)
    with pytest.raises(ValueError, match="vocab_size = 3 allows 0 to 1"):
        token_frequencies(written([[0, 2]]), 3)
    with pytest.raises(ValueError, match="width = 9"):
        context_embeddings(written([[0, 1]]), 3, width=9)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="damaged"):
        token_frequencies(tmp_path / "bad.safetensors", 5)
