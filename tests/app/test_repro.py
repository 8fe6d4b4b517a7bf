"""A real two-stage pipeline: what ran, what was restored, what was up to date, and what made the outputs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isocline.app.repro import _run_dvc, _Seen
from isocline.tracking.store import connect

LAUNCH = Path(__file__).parents[2] / "pipeline" / "launch.py"

STAGE = """
import json
from pathlib import Path

def main(run, params, item):
    Path("made").mkdir(exist_ok=True)
    document = {"frechet": {"1": {"mean": 2.0}, "4": {"mean": float(params["rate"])}}}
    Path(f"made/{run.stage}.txt").write_text(str(params["rate"]))
    Path(f"{run.stage}.json").write_text(json.dumps(document))
    run.document(document)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ISOCLINE_PARENT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/launch.py").write_text(LAUNCH.read_text())
    for stage in ("first", "second"):
        (tmp_path / f"pipeline/{stage}.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("threads: 1\nrate: 1.0\n")
    entries = "".join(
        f"  {stage}:\n    cmd: python pipeline/launch.py {stage}\n    params: [rate]\n"
        f"    deps: [pipeline/{stage}.py{dep}]\n"
        f"    outs: [made/{stage}.txt]\n    metrics:\n      - {stage}.json: {{cache: false}}\n"
        for stage, dep in (("first", ""), ("second", ", made/first.txt"))
    )
    (tmp_path / "dvc.yaml").write_text(f"stages:\n{entries}")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def repro(project: Path) -> dict[str, Any]:
    code = (  # these stages need no torch in their server
        "import functools, sys; from isocline.app import repro; "
        "repro.stage_server = functools.partial(repro.stage_server, preload=('json',)); "
        "sys.exit(repro.run_pipeline([]))"
    )
    tools = project.parent / f"{project.name}-tools"  # git, but no python: the environment is not activated
    tools.mkdir(exist_ok=True)
    if not (tools / "git").exists():
        (tools / "git").symlink_to(str(shutil.which("git")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = (project / "reports/runs.js").read_text()
    return dict(json.loads(text.removeprefix("window.ISOCLINE_RUNS = ").removesuffix(";\n")))


def test_python_of_the_commands_is_the_one_that_runs_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\n[ "$(command -v python)" = "$0" ]\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert _run_dvc([], {}, _Seen()) == 0
    monkeypatch.delenv("PATH")
    assert _run_dvc([], {}, _Seen()) == 0


@pytest.mark.slow
def test_each_stage_of_each_invocation_has_a_run_linked_to_the_one_that_made_its_outputs(project: Path) -> None:
    first = repro(project)
    assert {name: row["status"] for name, row in first["stages"].items()} == {"first": "ran", "second": "ran"}
    (project / "params.yaml").write_text("threads: 1\nrate: 2.0\n")
    repro(project)
    (project / "params.yaml").write_text("threads: 1\nrate: 1.0\n")
    restored = repro(project)
    (project / "pipeline/second.py").write_text(STAGE + "\n# changed\n")
    mixed = repro(project)

    assert {name: row["status"] for name, row in restored["stages"].items()} == {
        "first": "restored",
        "second": "restored",
    }
    assert {name: row["status"] for name, row in mixed["stages"].items()} == {"first": "up to date", "second": "ran"}
    made = {name: row["run_id"] for name, row in first["stages"].items()}
    assert {name: row["restored_from"] for name, row in restored["stages"].items()} == made
    assert mixed["stages"]["first"]["restored_from"] == made["first"]

    assert not list(project.glob(".runs/*/*/spool-*")), "recorded, sent: nothing is left"
    client, _ = connect(first["tracking_uri"])
    for page in (first, restored, mixed):
        for row in page["stages"].values():
            run = client.get_run(row["run_id"])
            assert run.data.tags["mlflow.parentRunId"] == page["parent"]
            assert run.info.status == "FINISHED"
            curve = client.get_metric_history(row["run_id"], "frechet")
            assert sorted((point.step, point.value) for point in curve) == [(1, 2.0), (4, 1.0)]
    parent = client.get_run(restored["parent"])
    assert parent.info.status == "FINISHED"
    assert {"digest.dvc.lock", "digest.params.yaml", "stage.first"} <= set(parent.data.tags)
    assert {"dvc.lock", "params.yaml", "stages.json"} <= {f.path for f in client.list_artifacts(restored["parent"])}
    lock = (project / "dvc.lock").read_text()
    assert client.get_run(made["first"]).data.tags["out.made/first.txt"] in lock
