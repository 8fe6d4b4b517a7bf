"""A stage's run: what is recorded, what is kept, what is taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isocline.tracking.spool import RUNS, Spool, read_events, spools_under
from isocline.tracking.stage import open_stage


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOCLINE_PARENT", raising=False)
    (tmp_path / "data").write_text("input")
    return tmp_path


def events(spool: Spool, kind: str) -> list[dict[str, Any]]:
    return [event for event, _ in read_events(spool.path) if event["e"] == kind]


def losses(spool: Spool) -> list[tuple[int, float]]:
    return [(event["s"], event["v"]["loss"]) for event in events(spool, "metrics") if "loss" in event["v"]]


def test_success_removes_checkpoints_and_keeps_the_events() -> None:
    with open_stage("train@a", {"rate": 1}, ["data"]) as run:
        (run.directory / "last.ckpt").write_text("weights")
        (run.directory / "more").mkdir()
        run.metric("loss", 1.5, 3)
    (spool,) = spools_under(RUNS)
    assert [path.name for path in run.directory.iterdir()] == [spool.directory.name]
    assert spool.status == "FINISHED"
    assert losses(spool) == [(3, 1.5)]


def test_failure_keeps_checkpoints_and_says_why() -> None:
    with pytest.raises(ArithmeticError), open_stage("train@a", {}, []) as run:  # noqa: PT012
        (run.directory / "last.ckpt").write_text("weights")
        raise ArithmeticError("loss is nan")
    (spool,) = spools_under(RUNS)
    assert spool.status == "FAILED"
    assert (run.directory / "last.ckpt").read_text() == "weights"
    assert events(spool, "tags")[-1]["v"]["isocline.error"] == "ArithmeticError: loss is nan"


def test_interruption_is_recorded_as_killed() -> None:
    with pytest.raises(KeyboardInterrupt), open_stage("train@a", {}, []):
        raise KeyboardInterrupt
    assert spools_under(RUNS)[0].status == "KILLED"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_metric_that_is_not_finite_is_refused_by_name_and_step(value: float) -> None:
    with (
        pytest.raises(ValueError, match=r"'loss' of stage train@a is .* at step 7"),
        open_stage("train@a", {}, []) as run,
    ):
        run.metric("loss", value, 7)
    assert losses(spools_under(RUNS)[0]) == []


KILLED = """
import os, signal
from isocline.tracking.stage import open_stage
with open_stage("train@a", {"rate": 1}, ["data"]) as run:
    for step in range(4):
        run.metric("loss", 1.0 / (step + 1), step)
    (run.directory / "last.ckpt").write_text("step 2")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_midway() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL


def test_killed_stage_is_continued_with_its_checkpoint_and_without_doubled_points() -> None:
    kill_midway()
    (spool,) = spools_under(RUNS)
    assert spool.status == "RUNNING"
    with open_stage("train@a", {"rate": 1}, ["data"]) as run:
        assert run.resumed
        assert (run.directory / "last.ckpt").read_text() == "step 2"
        for step in range(2, 6):
            run.metric("loss", 1.0 / (step + 1), step)
    (same,) = spools_under(RUNS)
    assert same.directory == spool.directory
    assert losses(same) == [(step, 1.0 / (step + 1)) for step in range(6)]


@pytest.mark.parametrize("change", ["parameter", "input"])
def test_stale_checkpoint_is_never_taken_up(change: str, project: Path) -> None:
    kill_midway()
    if change == "input":
        (project / "data").write_text("other")
    with open_stage("train@a", {"rate": 2 if change == "parameter" else 1}, ["data"]) as run:
        assert not run.resumed
        assert not (run.directory / "last.ckpt").exists()
    assert sorted(str(spool.status) for spool in spools_under(RUNS)) == ["FINISHED", "KILLED"]


def test_finished_stage_that_runs_again_is_a_new_run() -> None:
    for _ in range(2):
        with open_stage("train@a", {}, []) as run:
            assert not run.resumed
    first, second = spools_under(RUNS)
    assert first.header["id"] != second.header["id"]  # type: ignore[index]


def test_running_stage_cannot_be_opened_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isocline.tracking.stage._STALE_WAIT", 0.0)
    with (
        open_stage("train@a", {}, []),
        pytest.raises(RuntimeError, match=f"running already.*{os.getpid()}"),
        open_stage("train@a", {}, []),
    ):
        pass


def test_timings_go_to_the_tracker_and_to_their_own_file() -> None:
    with open_stage("train@a", {}, []) as run:
        run.timing("samples_per_second", 12.5)
    document = json.loads((RUNS / "timings" / "train@a.json").read_text())
    assert document["samples_per_second"] == 12.5
    assert document["seconds"] > 0


def test_digests_of_inputs_and_outputs_are_tags(project: Path) -> None:
    with open_stage("train@a", {}, ["data"], ["out"]):
        (project / "out").write_text("result")
    tags: dict[str, str] = {}
    for event in events(spools_under(RUNS)[0], "tags"):
        tags.update(event["v"])
    assert tags["dvc.stage"] == "train@a"
    assert tags["dep.data"] == "a43c1b0aa53a0c908810c06ab1ff3967"
    assert tags["out.out"] == "b4a88417b3d0170d754c647c30b7216a"


def test_machine_is_sampled_at_least_once() -> None:
    with open_stage("train@a", {}, []):
        pass
    names = {name for event in events(spools_under(RUNS)[0], "metrics") for name in event["v"]}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names


def test_tracking_imports_neither_torch_nor_mlflow() -> None:
    code = (
        "import sys, isocline.tracking.stage, isocline.tracking.sender, isocline.tracking.pipeline_run; "
        "sys.exit(bool({'torch', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
