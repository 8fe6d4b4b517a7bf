import errno
import hashlib

import pytest
import torch
from safetensors.torch import load_file

from isocline.datasets.storage import atomic_file, file_digest, write_bytes, write_json, write_tensors


def interrupted_write(path):
    with atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_under_the_files_name_and_keeps_the_old_file(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, "no room")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="no room") as error:
        write_bytes(path, b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_return_the_digest_of_what_lies_on_disk(tmp_path):
    digests = {
        "a": write_bytes(tmp_path / "a", b"x"),
        "b": write_json(tmp_path / "b", {"z": 1, "a": 2}),
        "c": write_tensors(tmp_path / "c", {"t": torch.arange(3)}),
    }
    assert digests == {name: file_digest(tmp_path / name) for name in "abc"}
    assert digests["a"] == hashlib.sha256(b"x").hexdigest()


def test_json_is_sorted_and_refuses_what_json_cannot_say(tmp_path):
    write_json(tmp_path / "a", {"z": 1, "a": 2})
    assert (tmp_path / "a").read_text().index('"a"') < (tmp_path / "a").read_text().index('"z"')
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b", float("nan"))
    assert not (tmp_path / "b").exists()


def test_views_of_tensors_are_written_whole(tmp_path):
    write_tensors(tmp_path / "t", {"t": torch.arange(6).view(2, 3).t()})
    assert load_file(tmp_path / "t")["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
