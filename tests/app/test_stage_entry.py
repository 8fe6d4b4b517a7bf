"""What a failing stage says, and what the smoke run leaves behind."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from isocline.app import stage_entry
from isocline.app.errors import disk_full
from isocline.tracking.stage import PARENT_VARIABLE

CURE = "free space (for instance `dvc gc --workspace`), then run again"
SMOKE = Path(__file__).parents[2] / ".ci" / "smoke"


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(stage: str, item: str | None) -> None:
        raise error

    monkeypatch.setenv(PARENT_VARIABLE, "none")
    monkeypatch.delenv("ISOCLINE_DEBUG", raising=False)
    monkeypatch.setattr(stage_entry, "_run", run)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_the_cure(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError(number, os.strerror(number), "data/models/flow/weights.safetensors"), monkeypatch)
    assert stage_entry.run_stage("train", "flow") == 1
    expected = f"stage train flow: disk full at data/models/flow/weights.safetensors; {CURE}\n"
    assert capsys.readouterr().err == expected


def test_a_full_disk_without_a_file_names_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    failing(OSError(errno.ENOSPC, "No space left on device"), monkeypatch)
    assert stage_entry.run_stage("train", "flow") == 1
    assert capsys.readouterr().err == f"stage train flow: disk full at {tmp_path}; {CURE}\n"


def test_a_full_disk_is_recognised_as_the_cause_of_another_error() -> None:
    error = RuntimeError("cannot save the checkpoint")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
    assert disk_full(error) == f"disk full at last.ckpt; {CURE}"


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied", "data"), OSError("odd"), ValueError("x")])
def test_other_errors_are_not_taken_for_a_full_disk(error: Exception) -> None:
    assert disk_full(error) is None


ISOCLINE = """#!/usr/bin/env bash
set -e
case "$1" in
  repro) mkdir -p reports; echo page > page; ln -s ../page reports/index.html ;;
  gate) exit $(cat gate-status) ;;
esac
"""


@pytest.mark.parametrize("status", [0, 3])
def test_the_smoke_run_keeps_its_report_apart_also_when_the_gate_fails(tmp_path: Path, status: int) -> None:
    project, programs, scratch = (tmp_path / name for name in ("project", "programs", "scratch"))
    for folder in (project / "reports" / "smoke", programs, scratch):
        folder.mkdir(parents=True)
    (programs / "isocline").write_text(ISOCLINE)
    (programs / "isocline").chmod(0o755)
    (project / ".gitignore").write_text("reports/\n")
    (project / "gate-status").write_text(str(status))
    (project / "reports" / "index.html").write_text("the user's own report")
    (project / "reports" / "smoke" / "old.html").write_text("of the run before")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], cwd=project, check=True)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(scratch)}
    result = subprocess.run(["bash", SMOKE], cwd=project, env=environment, check=False, capture_output=True)
    assert result.returncode == status, result.stderr
    kept = project / "reports" / "smoke"
    assert [(path.name, path.is_symlink(), path.read_text()) for path in kept.iterdir()] == [
        ("index.html", False, "page\n")
    ]
    assert (project / "reports" / "index.html").read_text() == "the user's own report"
    assert list(scratch.iterdir()) == []
