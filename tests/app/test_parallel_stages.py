"""Stages side by side: the same results and the same dvc.lock, in an order that the graph allows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isocline.app.dvc_lock import HEAD, LOCK, arrange, locked_names
from isocline.app.jobs import JOBS_VARIABLE, job_count
from isocline.app.parallel_stages import Schedule, expected

Graph = dict[int, set[int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, dict[int, float]]:
    """Up to ten nodes, edges to smaller numbers, some durations unknown."""
    size = draw(st.integers(1, 10))
    needs = {node: draw(st.sets(st.integers(0, node - 1))) if node else set() for node in range(size)}
    return needs, draw(st.dictionaries(st.integers(0, size - 1), st.floats(0.1, 100.0)))


@given(graphs(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_node_comes_once_and_after_what_it_needs(
    case: tuple[Graph, dict[int, float]], jobs: int, chance: random.Random
) -> None:
    needs, seconds = case
    schedule, running, done = Schedule(list(needs), needs, seconds), [], []
    while True:
        while len(running) < jobs and (node := schedule.take()) is not None:
            assert needs[node] <= set(done)
            running.append(node)
        if not running:
            break
        done.append(running.pop(chance.randrange(len(running))))
        schedule.finish(done[-1])
    assert sorted(done) == sorted(needs)


def test_the_longest_way_to_the_end_starts_first() -> None:
    needs = {"short": [], "first": [], "second": ["first"], "end": ["second", "short"]}
    assert Schedule(list(needs), needs).take() == "first"
    assert Schedule(list(needs), needs, {"short": 5.0}).take() == "short"
    assert Schedule(["a", "b"], {}).take() == "a", "of equals the earlier one"


def test_a_stage_that_never_ran_is_expected_to_take_as_long_as_its_kind() -> None:
    known = {"train@a": 10.0, "train@b": 20.0, "report": 3.0}
    assert expected(known, ["train@b", "train@c", "report", "other"]) == [20.0, 15.0, 3.0, 11.0]
    assert expected({}, ["a", "b"]) == [1.0, 1.0]


def test_what_is_not_planned_counts_as_done_and_what_is_skipped_never_comes() -> None:
    schedule = Schedule(["b", "c", "d"], {"b": ["a"], "c": ["b"], "d": []})
    assert schedule.take() == "b"
    schedule.skip(["c"])
    schedule.finish("b")
    assert [schedule.take(), schedule.take()] == ["d", None]


def test_new_stages_in_the_lock_come_in_the_order_of_the_plan(tmp_path: Path) -> None:
    lock = tmp_path / LOCK
    arrange(lock, [], ["a"])
    assert not lock.exists()
    lock.write_text(HEAD + "".join(f"  {name}:\n    cmd: {name}\n" for name in ("old", "d", "b", "older", "c")))
    arrange(lock, ["old", "older"], ["b", "old", "c", "d"])
    assert locked_names(lock) == ["old", "older", "b", "c", "d"]
    other = "# a remark\n" + lock.read_text()
    lock.write_text(other)
    arrange(lock, [], ["d", "c"])
    assert lock.read_text() == other


def test_count_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOBS_VARIABLE, raising=False)
    monkeypatch.setattr("isocline.app.jobs.usable_cores", lambda: 8)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 7 * 2**30}))
    assert job_count({}, threads=2) == 3, "memory for three, cores for four"
    assert job_count({}, threads=4) == 2
    assert job_count({}, threads=16) == 1
    assert job_count({"accelerator": "cuda"}, threads=2) == 1
    assert job_count({"accelerator": "cuda"}, threads=2, asked=3) == 3
    monkeypatch.setenv(JOBS_VARIABLE, "5")
    assert job_count({}, threads=2) == 5
    monkeypatch.setenv(JOBS_VARIABLE, "many")
    with pytest.raises(ValueError, match=r"ISOCLINE_JOBS is 'many'; give a whole number"):
        job_count({}, threads=2)
    with pytest.raises(ValueError, match=r"--jobs is 0; give a whole number"):
        job_count({}, threads=2, asked=0)


MEET = (
    "touch {mine}.here; for i in $(seq 600); do [ -e {other}.here ] && exec cp in.txt {mine}; sleep .05; done; exit 1"
)
"""A command that ends only while the other one runs too."""


def declare(where: Path, stages: dict[str, tuple[str, list[str]]]) -> None:
    """A project of shell commands: name to command and inputs; every stage makes the file of its own name."""
    entries = {name: {"cmd": cmd, "deps": deps, "outs": [name]} for name, (cmd, deps) in stages.items()}
    (where / "dvc.yaml").write_text(yaml.safe_dump({"stages": entries}, sort_keys=False))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text("data")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def start(where: Path, jobs: int, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "isocline.app.dvc_process", "repro", *argv],
        cwd=where,
        env={**os.environ, JOBS_VARIABLE: str(jobs), "SHELL": "/bin/sh"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell runs in the background inherit that interruptions are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a test has one thread
    )


def repro(where: Path, jobs: int, *argv: str) -> tuple[int, str, str]:
    process = start(where, jobs, *argv)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_independent_stages_run_at_the_same_time(project: Path) -> None:
    declare(
        project,
        {"a": (MEET.format(mine="a", other="b"), ["in.txt"]), "b": (MEET.format(mine="b", other="a"), ["in.txt"])},
    )
    code, out, err = repro(project, 2)
    assert code == 0, out + err
    assert "Running stage 'a':" in out
    assert (project / "b").read_text() == "data"


def test_results_and_lock_are_those_of_one_after_another(project: Path) -> None:
    stages = {
        "c": ("cat a b > c; echo joined", ["a", "b"]),
        "a": ("sleep 0.5; cp in.txt a; echo progress; echo to the other stream >&2", ["in.txt"]),
        "b": ("(cat in.txt; echo b) > b", ["in.txt"]),
        "d": ("cp a d", ["a"]),
        "e": ("cat c d > e", ["c", "d"]),
    }
    declare(project, stages)
    assert repro(project, 1)[0] == 0
    lock, made = (project / LOCK).read_bytes(), {name: (project / name).read_bytes() for name in stages}
    (project / LOCK).unlink()
    code, out, err = repro(project, 3, "-f")
    assert code == 0, out + err
    assert {name: (project / name).read_bytes() for name in stages} == made
    assert (project / LOCK).read_bytes() == lock
    assert {"a | progress", "c | joined"} <= set(out.splitlines()), "each line with its stage"
    assert "a | to the other stream" in err.splitlines()
    code, out, _ = repro(project, 3)
    assert code == 0
    assert out.count("didn't change, skipping") == 5
    (project / "in.txt").write_text("other")
    code, out, _ = repro(project, 3, "d")
    assert [name for name in stages if f"Running stage '{name}'" in out] == ["a", "d"]


def test_after_a_failure_what_runs_is_kept_and_nothing_more_starts(project: Path) -> None:
    wait = "touch slow.here; for i in $(seq 600); do [ -e bad.here ] && break; sleep 0.05; done; sleep 0.3"
    bad = "for i in $(seq 600); do [ -e slow.here ] && break; sleep 0.05; done; touch bad.here; exit 3"
    stages = {
        "bad": (bad, ["in.txt"]),
        "slow": (f"{wait}; cp in.txt slow", ["in.txt"]),
        "later": ("cp slow later", ["slow"]),
        "needs": ("cp bad needs", ["bad"]),
        "free": ("cp in.txt free", ["in.txt"]),
    }
    declare(project, stages)
    code, out, err = repro(project, 2)
    assert code != 0
    assert "bad failed; waiting for slow to end" in out
    assert "failed to reproduce 'bad'" in err
    assert locked_names(project / LOCK) == ["slow"]
    code, out, err = repro(project, 2, "--keep-going")
    assert code != 0
    assert sorted(locked_names(project / LOCK)) == ["free", "later", "slow"]
    assert not (project / "needs").exists()
    declare(project, {**stages, "bad": ("cp in.txt bad", ["in.txt"])})
    assert repro(project, 2)[0] == 0
    assert (project / "needs").exists()


def test_an_interruption_ends_the_stages_and_loses_nothing(project: Path) -> None:
    endless = "touch {0}.here; exec sleep 600"
    declare(
        project,
        {
            "done": ("cp in.txt done", ["in.txt"]),
            "x": (endless.format("x"), ["done"]),
            "y": (endless.format("y"), ["done"]),
            "z": ("cp in.txt z", ["x"]),
        },
    )
    process = start(project, 2)
    deadline = time.monotonic() + 60
    while not ((project / "x.here").exists() and (project / "y.here").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert locked_names(project / LOCK) == ["done"]
    assert not (project / "z").exists()
    declare(project, {"done": ("cp in.txt done", ["in.txt"]), "x": ("cp in.txt x", ["done"])})
    code, out, err = repro(project, 2)
    assert code == 0, out + err
    assert "Running stage 'done'" not in out
