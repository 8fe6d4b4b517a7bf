"""The launcher runs a stage of the working directory, tells mistakes in one line, and goes on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isocline.tracking.spool import Spool, read_events, spools_under

LAUNCH = Path(__file__).parents[2] / "pipeline" / "launch.py"

STAGE = """
import os, signal
from pathlib import Path

def main(run, params, item):
    toy = params["toys"][item]
    if toy["mode"] == "undeclared":
        print(params["seed"])
    if toy["mode"] == "nan":
        run.metric("loss", float("nan"), 3)
    checkpoint = run.directory / "last.txt"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    total = sum(range(first))
    for step in range(first, 10):
        total += step
        run.metric("loss", float(total), step)
        if step == 4:
            checkpoint.write_text("4")
        if step == 6 and os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
    Path("out").mkdir(exist_ok=True)
    Path("out/total").write_text(f"{total} {toy['rate']!r}")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "launch.py").write_text(LAUNCH.read_text())
    (tmp_path / "pipeline" / "train.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text(
        "seed: 0\nthreads: 1\ntoys:\n"
        "  a: {mode: run, rate: 1e-3}\n  b: {mode: undeclared, rate: 1}\n  c: {mode: nan, rate: 1}\n"
    )
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  train:\n    foreach: ${toys}\n    do:\n      cmd: python pipeline/launch.py train ${key}\n"
        "      params:\n        - toys.${key}\n      deps: [pipeline/train.py]\n      outs: [out]\n"
    )
    return tmp_path


def launch(project: Path, *argv: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ISOCLINE_PARENT": "none", **extra}
    for name in ("ISOCLINE_STAGE_SERVER", "ISOCLINE_DEBUG"):
        if name not in extra:
            environment.pop(name, None)
    command = [sys.executable, "pipeline/launch.py", *argv]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def losses(spool: Spool) -> list[tuple[int, float]]:
    return [
        (event["s"], event["v"]["loss"])
        for event, _ in read_events(spool.path)
        if event["e"] == "metrics" and "loss" in event["v"]
    ]


def test_killed_stage_goes_on_from_its_checkpoint_in_the_same_run_to_the_same_result(project: Path) -> None:
    assert launch(project, "train", "a").returncode == 0
    result = (project / "out/total").read_bytes()
    assert result == b"45 0.001"
    (whole,) = spools_under(project / ".runs")
    whole.forget()
    (project / "out/total").unlink()

    assert launch(project, "train", "a", KILL="1").returncode == -signal.SIGKILL
    (killed,) = spools_under(project / ".runs")
    assert killed.status == "RUNNING"
    assert launch(project, "train", "a").returncode == 0
    (same,) = spools_under(project / ".runs")
    assert same.directory == killed.directory
    assert same.status == "FINISHED"
    assert [step for step, _ in losses(same)] == list(range(10))
    assert (project / "out/total").read_bytes() == result
    assert json.loads((project / ".runs/timings/train@a.json").read_text())["resumed"] is True


def test_tracker_shows_a_models_parameters_without_its_name(project: Path) -> None:
    launch(project, "train", "a")
    (spool,) = spools_under(project / ".runs")
    params = next(event["v"] for event, _ in read_events(spool.path) if event["e"] == "params")
    assert params == {"mode": "run", "rate": "0.001"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "b"], "stage train b: the stage reads seed, which dvc.yaml does not list"),
        (["train", "c"], "stage train c: metric 'loss' of stage train@c is nan at step 3"),
        (["train", "z"], "stage train z: dvc.yaml has no stage 'train z'; it has train@a, train@b, train@c"),
    ],
)
def test_mistake_is_one_line_and_exit_code_one(project: Path, argv: list[str], said: str) -> None:
    done = launch(project, *argv)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_trace(project: Path) -> None:
    assert "Traceback" in launch(project, "train", "z", ISOCLINE_DEBUG="1").stderr


def test_missing_parameters_name_the_cure(project: Path) -> None:
    (project / "params.yaml").unlink()
    done = launch(project, "train", "a")
    assert done.returncode == 1
    assert "isocline compose" in done.stderr


@pytest.mark.parametrize("threads", ["0", "many", "-1"])
def test_thread_count_out_of_range_is_named(project: Path, threads: str) -> None:
    done = launch(project, "train", "a", ISOCLINE_THREADS=threads)
    assert done.returncode == 1
    assert f"threads is {threads!r}" in done.stderr


def test_usage_is_shown_for_no_stage(project: Path) -> None:
    done = launch(project)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_launcher_imports_nothing_but_the_standard_library(project: Path) -> None:
    code = "import sys; sys.path.insert(0, 'pipeline'); import launch\n"
    code += "print(any(m.startswith(('isocline', 'torch')) for m in sys.modules))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
