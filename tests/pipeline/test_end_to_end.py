"""Each kind of stage at the smoke size: nothing runs twice, the same bits come twice, a kill costs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from isocline.app.compose import compose

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

KEPT = {
    "models": ["flow", "ar", "masked", "node_discrete", "latent_flow"],
    "students": ["reflow", "consistency", "sdtt"],
    "densities": ["cnf_moons", "coupling_moons"],
    "autoencoders": ["latents"],
    "pairs": ["flow"],
}
"""At least one of every kind of stage; the smoke run of CI has all models."""

pytestmark = pytest.mark.slow


def smoke() -> list[str]:
    """Overrides of the smoke profile without models that only repeat a kind of stage."""
    config = compose(["profile=smoke"], ROOT, validate=False).config
    kept = {name for names in KEPT.values() for name in names}
    sections = [*KEPT, *(f"matrix.{group}" for group in config["matrix"])]
    names = {section: config["matrix"][section[7:]] if "." in section else config[section] for section in sections}
    return [
        "profile=smoke",
        *(f"~{section}.{name}" for section in sections for name in names[section] if name not in kept),
    ]


def environment() -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC", "ISOCLINE", "OMP"))}
    return {**keep, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def call(where: Path, *command: str, check: bool = True) -> str:
    done = subprocess.run(
        command, cwd=where, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stdout[-6000:]
    return done.stdout


def ran(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def digests(where: Path) -> dict[str, str]:
    files = [p for top in ("data", "metrics", "plots", "reports") for p in sorted((where / top).rglob("*"))]
    skip = {"runs.js"}
    found = {
        str(p.relative_to(where)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
        if p.is_file() and p.name not in skip and ".git" not in p.name
    }
    return {**found, "dvc.lock": hashlib.sha256((where / "dvc.lock").read_bytes()).hexdigest()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree, composed for a part of the smoke profile, run once."""
    where = tmp_path_factory.mktemp("project")
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").split("\n")
    for name in filter(None, listed):
        if name == "dvc.lock" or name.startswith(("metrics/", "plots/")) or not (ROOT / name).is_file():
            continue
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, where / name)
    call(where, "git", "init", "-q")
    call(where, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "add", "-A")
    call(where, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "copy")
    call(where, "isocline", "compose", *smoke())
    first = call(where, "isocline", "repro", "--jobs", "1")
    assert {"train@flow", "distill@sdtt", "evaluate-images@consistency", "report"} <= ran(first), first[-3000:]
    assert {name.partition("@")[0] for name in ran(first)} == set(
        yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    )
    return where


def test_a_second_run_runs_nothing(project: Path) -> None:
    assert ran(call(project, "dvc", "repro")) == set()


def test_metrics_carry_their_uncertainty(project: Path) -> None:
    images = json.loads((project / "metrics/evaluate-flow.json").read_text())
    settings = yaml.safe_load((project / "params.yaml").read_text())["evaluation"]["images"]
    assert list(images["frechet"]) == [str(nfe) for nfe in settings["nfe"]]
    assert all(entry["sd"] > 0 and entry["n"] >= 2 for entry in images["frechet"].values())
    assert images["bits_per_dim"]["se"] > 0
    exact = json.loads((project / "metrics/evaluate-ar.json").read_text())["bits_per_char"]
    bound = json.loads((project / "metrics/evaluate-masked.json").read_text())["bits_per_char"]
    assert exact["kind"] == "exact"
    assert "bound" in bound["kind"]
    assert 0 < exact["mean"] < bound["mean"] < 8


def test_changing_a_students_parameter_reruns_only_what_depends_on_it(project: Path) -> None:
    before = digests(project)
    original = (project / "params.yaml").read_text()
    lock = (project / "dvc.lock").read_text()
    try:
        call(project, "isocline", "compose", *smoke(), "students.sdtt.optimizer.lr=0.0007")
        output = call(project, "isocline", "repro")
        assert ran(output) == {"distill@sdtt", "evaluate-text@sdtt", "report"}
        after = digests(project)
        changed = {name for name in after if after[name] != before.get(name)}
        assert "data/models/sdtt/weights.safetensors" in changed
        assert not any("flow" in name or "masked" in name for name in changed)
    finally:
        (project / "params.yaml").write_text(original)
        back = call(project, "isocline", "repro")
    assert ran(back) == set(), "going back must restore from the run cache"
    assert (project / "dvc.lock").read_text() == lock
    assert digests(project) == before


def test_killing_the_pipeline_in_training_costs_nothing(project: Path) -> None:
    before = digests(project)
    slow = subprocess.Popen(
        ["isocline", "repro", "-f", "-s", "train@masked"],
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((project / ".runs/train@masked").rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(slow.pid, signal.SIGKILL)
    slow.wait()
    time.sleep(1.0)
    output = call(project, "isocline", "repro", "-f", "-s", "train@masked")
    assert "resuming at step" in output
    assert digests(project) == before


def test_forcing_everything_gives_the_same_bytes_side_by_side_too(project: Path) -> None:
    before = digests(project)
    (project / "dvc.lock").unlink()  # its stages come in the same order again
    output = call(project, "isocline", "repro", "-f", "--jobs", "2")
    assert "up to 2 stages side by side" in output
    assert "train@flow" in ran(output)
    assert digests(project) == before
