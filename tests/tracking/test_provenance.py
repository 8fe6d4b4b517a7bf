"""Digests agree with DVC's own and tell changed content apart."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from dvc_data.hashfile.build import build
from dvc_data.hashfile.db.local import LocalHashFileDB
from dvc_objects.fs import LocalFileSystem

from isocline.tracking.provenance import digest, document_metrics, fingerprint, flatten, git_state


def test_file_digest_is_its_md5(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    assert digest(tmp_path / "a") == hashlib.md5(b"hello").hexdigest()


def test_absent_path_has_no_digest(tmp_path: Path) -> None:
    assert digest(tmp_path / "nothing") is None


def test_directory_digest_is_the_one_that_dvc_computes(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("b.txt", "a/z.txt", "a/é.txt", "A.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    files = LocalFileSystem()
    store = LocalHashFileDB(files, str(tmp_path / "cache"))
    _, _, found = build(store, str(folder), files, "md5", dry_run=True)
    assert digest(folder) == found.hash_info.value


def test_directory_digest_leaves_bytecode_out(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.py").write_text("1")
    before = digest(tmp_path / "d")
    (tmp_path / "d" / "__pycache__").mkdir()
    (tmp_path / "d" / "__pycache__" / "a.pyc").write_text("x")
    assert digest(tmp_path / "d") == before


def test_fingerprint_depends_on_stage_parameters_and_inputs_but_not_on_their_order() -> None:
    base = fingerprint("train@a", {"x": 1, "y": {"z": 2}}, {"data": "1", "code": "2"})
    assert base == fingerprint("train@a", {"y": {"z": 2}, "x": 1}, {"code": "2", "data": "1"})
    assert base != fingerprint("train@b", {"x": 1, "y": {"z": 2}}, {"data": "1", "code": "2"})
    assert base != fingerprint("train@a", {"x": 1, "y": {"z": 3}}, {"data": "1", "code": "2"})
    assert base != fingerprint("train@a", {"x": 1, "y": {"z": 2}}, {"data": "3", "code": "2"})


def test_flatten_spells_nested_names_with_dots_and_keeps_plain_lists() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 3}], "f": {}}) == {
        "a.b": 1,
        "a.c": [1, 2],
        "d.0.e": 3,
        "f": {},
    }


def test_curve_over_evaluations_becomes_one_metric_with_steps() -> None:
    document = {
        "frechet": {"1": {"mean": 2.0, "sd": 0.5}, "4": {"mean": 1.0}},
        "count": 3,
        "kind": "bound",
        "bad": None,
    }
    assert sorted(document_metrics(document), key=str) == sorted(
        [("frechet", 2.0, 1), ("frechet/sd", 0.5, 1), ("frechet", 1.0, 4), ("count", 3.0, None)], key=str
    )


def test_git_state_names_the_commit_and_notices_an_edit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert git_state(tmp_path) == {}
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    clean = {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "git.dirty": "false"}
    assert git_state(tmp_path) == clean
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {**clean, "git.dirty": "true"}
