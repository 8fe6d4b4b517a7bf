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


FINISHED = """
from pathlib import Path
from isocline.tracking.stage import open_stage
with open_stage("train@a", {"rate": 1}, ["data"], ["out"]) as run:
    for step in range(4):
        run.metric("loss", 1.0 / (step + 1), step)
    (run.directory / "last.ckpt").write_text("step 2")
    Path("out").write_text("result")
"""


def finish_unrecorded(project: Path) -> Spool:
    """A stage of a pipeline that finished, and whose DVC was killed before it wrote dvc.lock."""
    (project / "dvc.yaml").write_text("stages: {}\n")
    subprocess.run([sys.executable, "-c", FINISHED], check=True, env={**os.environ})
    (spool,) = spools_under(RUNS)
    assert spool.status == "FINISHED"
    return spool


def record(project: Path, **wrong: str) -> None:
    rows = {"data": "a43c1b0aa53a0c908810c06ab1ff3967", "out": "b4a88417b3d0170d754c647c30b7216a", **wrong}
    entry = {"deps": [{"path": "data", "md5": rows["data"]}], "outs": [{"path": "out", "md5": rows["out"]}]}
    (project / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train@a": entry}}))


@pytest.mark.parametrize("wrong", [None, {"data": "of before"}, {"out": "of before"}])
def test_finished_stage_that_dvc_did_not_record_goes_on_as_the_same_run(
    wrong: dict[str, str] | None, project: Path
) -> None:
    first = finish_unrecorded(project)
    if wrong is not None:
        record(project, **wrong)
    (project / "out").unlink()  # as DVC does before it runs a stage
    with open_stage("train@a", {"rate": 1}, ["data"], ["out"]) as run:
        assert run.resumed
        assert (run.directory / "last.ckpt").read_text() == "step 2"
        for step in range(2, 4):
            run.metric("loss", 1.0 / (step + 1), step)
        (project / "out").write_text("result")
    (same,) = spools_under(RUNS)
    assert same.directory == first.directory
    assert same.status == "FINISHED"
    assert losses(same) == [(step, 1.0 / (step + 1)) for step in range(4)]
    assert (run.directory / "last.ckpt").exists()


def test_finished_stage_that_dvc_recorded_starts_afresh_when_it_is_forced(project: Path) -> None:
    first = finish_unrecorded(project)
    record(project)
    with open_stage("train@a", {"rate": 1}, ["data"], ["out"]) as run:
        assert not run.resumed
        assert not (run.directory / "last.ckpt").exists()
    assert len(spools_under(RUNS)) == 2
    assert first.status == "FINISHED"


def test_checkpoint_of_a_finished_stage_goes_when_other_parameters_replace_it(project: Path) -> None:
    first = finish_unrecorded(project)
    with open_stage("train@a", {"rate": 2}, ["data"], ["out"]):
        pass
    assert not (first.directory.parent / "last.ckpt").exists()
    assert first.status == "FINISHED"


def test_checkpoint_without_its_run_is_never_taken_up(project: Path) -> None:
    first = finish_unrecorded(project)
    first.forget()
    with open_stage("train@a", {"rate": 1}, ["data"], ["out"]) as run:
        assert not run.resumed
        assert not (run.directory / "last.ckpt").exists()


def trained(project: Path) -> tuple[bytes, int, bool]:
    """Train a small network as a stage; its weights, the step that it began at, whether its run went on."""
    from functools import partial

    import torch

    from isocline.networks.ema import ExponentialMovingAverage
    from isocline.networks.mlp import MLP
    from isocline.objectives.base import Loss, Objective
    from isocline.training.fit import fit
    from isocline.training.module import GenerativeModule
    from isocline.training.settings import FitSettings

    class Distance(Objective):
        def forward(self, network: Any, batch: Any, generator: Any) -> Loss:
            noise = torch.randn(batch.x0.shape, generator=generator)
            return Loss((network(noise[:, 0], batch.x0, None) - noise).square().mean(), {})

    with open_stage("train@a", {}, ["data"], ["out"]) as run:
        torch.manual_seed(0)
        average = partial(ExponentialMovingAverage, decay=0.9)
        optimizer = partial(torch.optim.AdamW, lr=1e-2)
        module = GenerativeModule(MLP(2, 8, 2), Distance(), optimizer, average, seed=7, steps=12)
        settings = FitSettings(steps=12, batch_size=4, log_every=5, checkpoint_seconds=0.0)
        x0 = torch.randn(9, 2, generator=torch.Generator().manual_seed(1))
        result = fit(module, {"x0": x0}, settings, run.directory, label="a", log=run.metrics)
        weights = torch.cat([value.flatten() for value in result.network.parameters()]).numpy().tobytes()
        (project / "out").write_bytes(weights)
    return weights, result.resumed_from, run.resumed


@pytest.mark.slow
def test_training_that_dvc_did_not_record_goes_on_to_the_same_bytes(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: {}\n")
    weights, first, resumed = trained(project)
    assert (first, resumed) == (0, False)
    curve = [event["v"] for event in events(spools_under(RUNS)[0], "metrics") if event["s"] == 12]
    assert trained(project) == (weights, 11, True)
    (spool,) = spools_under(RUNS)
    assert [event["v"] for event in events(spool, "metrics") if event["s"] == 12] == curve


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
