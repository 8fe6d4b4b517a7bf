"""Spools reach MLflow once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tracking.stored_runs import assert_complete, history, runs, small_stage

from isocline.tracking.pipeline_run import PipelineRun
from isocline.tracking.sender import Sender, sync
from isocline.tracking.spool import RUNS, Spool, exclusive, spools_under
from isocline.tracking.stage import open_stage
from isocline.tracking.store import connect


def test_everything_that_a_stage_says_arrives_and_the_spool_is_forgotten(store: str) -> None:
    small_stage()
    assert sync().pending == 0
    assert spools_under(RUNS) == []
    assert_complete(store)


def test_sending_again_after_losing_every_acknowledgement_doubles_nothing(store: str) -> None:
    small_stage()
    Sender().send_all()
    (spool,) = spools_under(RUNS)
    (spool.directory / "sent.json").unlink()
    Sender().send_all()
    assert_complete(store)


def test_sending_again_after_losing_the_last_acknowledgement_doubles_nothing(store: str) -> None:
    small_stage()
    Sender().send_all()
    (spool,) = spools_under(RUNS)
    state = spool.state()
    assert spool.acknowledged
    spool.save_state({**state, "offset": 0})
    assert not spool.acknowledged
    Sender().send_all()
    assert_complete(store)


def test_spool_is_sent_while_its_stage_still_writes(store: str) -> None:
    with open_stage("train@a", {}, []) as run:
        run.metric("loss", 2.0, 0)
        Sender().send_all()
        (found,) = runs(store)
        assert found.info.status == "RUNNING"
        run.metric("loss", 1.0, 1)
    sync()
    (found,) = runs(store)
    assert found.info.status == "FINISHED"
    assert history(store, found.info.run_id, "loss") == [(0, 2.0), (1, 1.0)]


def test_failed_stage_that_goes_on_stays_the_same_run(store: str) -> None:
    with pytest.raises(ArithmeticError), open_stage("train@a", {}, []):
        raise ArithmeticError
    sync()
    (first,) = runs(store)
    assert first.info.status == "FAILED"
    with open_stage("train@a", {}, []) as run:
        assert run.resumed
    sync()
    (second,) = runs(store)
    assert (second.info.run_id, second.info.status) == (first.info.run_id, "FINISHED")


def test_run_that_was_deleted_from_the_store_is_sent_anew(store: str) -> None:
    small_stage()
    Sender().send_all()
    client, _ = connect(store)
    client.delete_run(runs(store)[0].info.run_id)
    (spool,) = spools_under(RUNS)
    spool.save_state({**spool.state(), "offset": 10})
    Sender().send_all()
    assert_complete(store)


def test_child_knows_its_parent_and_student_its_teacher(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Spool(RUNS / "pipeline/one/spool-parent")
    parent.open("all", "pipeline")
    monkeypatch.setenv("ISOCLINE_PARENT", "pipeline/one/spool-parent")
    teacher = Path("data/models/flow")
    with open_stage("train@flow", {}, [], [str(teacher)]):
        teacher.mkdir(parents=True)
        (teacher / "weights").write_text("w")
    with open_stage("distill@thin", {}, [str(teacher)]) as run:
        run.tag("isocline.teacher", "flow")
    Sender().send_all()
    found = {run.info.run_name: run for run in runs(store)}
    assert found["distill@thin"].data.tags["isocline.teacher_run_id"] == found["train@flow"].info.run_id
    for child in ("train@flow", "distill@thin"):
        assert found[child].data.tags["mlflow.parentRunId"] == found["all"].info.run_id


def test_event_that_the_store_refuses_is_named_and_the_rest_arrives(store: str) -> None:
    with open_stage("train@a", {"rate": "1"}, []) as run:
        Sender().send_all()
        run.params({"rate": "2"})
        run.metric("loss", 1.0, 0)
    warnings: list[str] = []
    Sender(warn=warnings.append).send_all()
    assert len(warnings) == 1
    assert "refuses params rate" in warnings[0]
    (found,) = runs(store)
    assert found.data.params["rate"] == "1"
    assert found.data.metrics["loss"] == 1.0


def test_stage_is_kept_for_the_invocation_that_runs_it_and_goes_with_it(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PipelineRun("all") as parent:
        monkeypatch.setenv("ISOCLINE_PARENT", parent.relative)
        small_stage()
        assert sync().pending == 0  # by hand, meanwhile
        parent.collect()
        assert {stage: outcome.status for stage, outcome in parent.outcomes.items()} == {"train@a": "ran"}
        parent.finish(True, Sender())
    assert spools_under(RUNS) == []
    page = json.loads(Path("reports/runs.js").read_text().removeprefix("window.ISOCLINE_RUNS = ")[:-2])
    assert page["stages"]["train@a"]["status"] == "ran"
    assert page["ui_url"] is None
    tags = {run.info.run_name: run.data.tags for run in runs(store)}
    assert tags["all"]["stage.train:a"] == page["stages"]["train@a"]["run_id"]


def test_spool_is_kept_while_its_stage_holds_its_lock(store: str) -> None:
    small_stage()
    with exclusive(RUNS / "train@a" / "lock"):
        assert sync().pending == 0
        assert len(spools_under(RUNS)) == 1
    sync()
    assert spools_under(RUNS) == []


def test_finished_stage_is_kept_until_dvc_records_it(store: str) -> None:
    Path("dvc.yaml").write_text("stages: {}\n")
    small_stage()
    sync()
    assert len(spools_under(RUNS)) == 1
    rows = [{"path": "weights", "md5": "f1290186a5d0b1ceab27f4e77c0c5d68"}]
    Path("dvc.lock").write_text(json.dumps({"stages": {"train@a": {"deps": rows, "outs": rows}}}))
    sync()
    assert spools_under(RUNS) == []
