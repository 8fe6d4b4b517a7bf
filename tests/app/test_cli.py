"""The command line: instant help, one-line errors with the cure, nothing half-written."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from isocline import cli

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "compose",
    "repro",
    "sample",
    "generate",
    "analyse",
    "compare",
    "gate",
    "list",
    "doctor",
    "ui",
    "sync",
    "report",
)
HEAVY = ("torch", "mlflow", "hydra", "omegaconf", "dvc", "pytorch_lightning", "numpy", "yaml")


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOCLINE_DEBUG", raising=False)
    return tmp_path


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_help_loads_nothing_heavy():
    done = python(
        "import sys\nfrom isocline.cli import run\nassert run(['--help']) == 0\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert "LOADED []" in done.stdout, done.stdout[-300:] + done.stderr


def test_help_names_every_command(capsys):
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in text


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["compose", "sead=1"], ["sead", "did you mean seed"]),
        (["compose", "seed=many"], ["seed", "expected int"]),
        (["compose", "models.vp.process._target_=isocline.nowhere.X"], ["models.vp.process", "cannot be imported"]),
        (["compose", "sampler@models.masked.sampler=euler"], ["models.masked.sampler", "sampler=ancestral"]),
        (["compse"], ["compse", "--help"]),
        (["list", "solver"], ["solver", "solvers"]),
        (["sample", "flaw"], ["flaw", "isocline repro"]),
        (["generate", "../../nothing"], ["nothing", "isocline repro"]),
        (["sample", "flow", "--n", "0"], ["--n", "0"]),
        (["sample", "flow", "--nfe", "many"], ["--nfe", "many"]),
        (["compare", "one"], ["at least two"]),
        (["compare", "HEAD", "never-was"], ["HEAD", "git revision"]),
        (["gate"], ["params.yaml", "isocline compose"]),
        (["repro"], ["params.yaml", "isocline compose"]),
        (["ui", "--port", "70000"], ["70000", "65535"]),
    ],
)
def test_an_error_is_one_line_with_the_cure(project, capsys, arguments, parts):
    assert cli.run(arguments) not in (0, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_debug_shows_the_traceback(project, monkeypatch):
    monkeypatch.setenv("ISOCLINE_DEBUG", "1")
    with pytest.raises(ValueError, match="sead"):
        cli.run(["compose", "sead=1"])


def test_compose_writes_what_it_says_and_nothing_twice(project, capsys):
    assert cli.run(["compose", "profile=smoke", "seed=7"]) == 0
    text = (project / "params.yaml").read_text()
    assert "seed: 7\n" in text
    assert "profile: smoke\n" in text
    assert cli.run(["compose", "profile=smoke", "seed=7"]) == 0
    assert "already" in capsys.readouterr().out


def test_a_dry_run_prints_and_writes_nothing(project, capsys):
    before = sorted(project.rglob("*"))
    assert cli.run(["compose", "seed=7", "--dry-run"]) == 0
    assert "seed: 7\n" in capsys.readouterr().out
    assert sorted(project.rglob("*")) == before


def test_a_refused_composition_leaves_the_old_file(project):
    (project / "params.yaml").write_text("seed: 1\n")
    assert cli.run(["compose", "models.masked.network.heads=5"]) == 1
    assert (project / "params.yaml").read_text() == "seed: 1\n"
    assert sorted(path.name for path in project.iterdir()) == ["conf", "params.yaml"]


def test_list_prints_names_with_descriptions(project, capsys):
    assert cli.run(["list", "samplers"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("ddim ") and "DDIM" in row for row in rows)
    assert cli.run(["list", "all"]) == 0
    assert "profiles:" in capsys.readouterr().out
    assert cli.run(["list", "samplers", "DPM++ 2M"]) == 0
    assert capsys.readouterr().out.startswith("dpmpp_2m  ")


def test_an_occupied_port_is_named_with_another_one(project, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.run(["ui", "--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert f"port {port} is in use" in err
    assert f"--port {port + 1}" in err


def test_ui_of_a_server_points_to_the_server(project, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert cli.run(["ui"]) == 0
    assert "http://tracker:5000" in capsys.readouterr().out


def test_gate_exits_with_failure_and_names_the_metric(project, capsys):
    (project / "params.yaml").write_text("profile: smoke\n")
    (project / "metrics").mkdir()
    metrics = project / "metrics" / "evaluate-flow.json"
    metrics.write_text('{"frechet": {"8": {"mean": 10.0, "sd": 0.2, "se": 0.1, "n": 4}}}')
    assert cli.run(["gate", "--accept"]) == 0
    assert cli.run(["gate"]) == 0
    metrics.write_text('{"frechet": {"8": {"mean": 30.0, "sd": 0.2, "se": 0.1, "n": 4}}}')
    capsys.readouterr()
    assert cli.run(["gate"]) == 1
    out, err = capsys.readouterr()
    assert "evaluate-flow.frechet.8" in out
    assert "gate --accept" in err


def test_gate_refuses_a_baseline_of_too_few_seeds(project, capsys):
    for seed in "ab":
        (project / seed).mkdir()
        (project / seed / "evaluate-flow.json").write_text('{"frechet": {"8": {"mean": 10.0}}}')
    assert cli.run(["gate", "--accept", "--profile", "smoke", "a", "b"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "at least 4 runs" in err


def test_the_installed_command_is_this_one():
    scripts = (ROOT / "pyproject.toml").read_text()
    assert 'isocline = "isocline.cli:main"' in scripts
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
