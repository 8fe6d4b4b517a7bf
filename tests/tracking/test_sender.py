"""Spools reach MLflow once, whatever happens in between."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isocline.tracking.limits import PARAM_LIMIT, allowed, shorten
from isocline.tracking.pipeline_run import PipelineRun
from isocline.tracking.sender import Sender, sync
from isocline.tracking.spool import RUNS, Spool, exclusive, spools_under
from isocline.tracking.stage import open_stage
from isocline.tracking.store import connect, tracking_uri


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its tables, made once: that takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("ISOCLINE_PARENT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tracking_uri()


def runs(uri: str) -> list[Any]:
    client, experiment = connect(uri)
    return list(client.search_runs([experiment], order_by=["start_time ASC"]))


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    points = connect(uri)[0].get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def small_stage(points: int = 5) -> None:
    Path("weights").write_text("w")
    with open_stage("train@a", {"network": {"width": 8}, "text": "x" * 9000}, ["weights"], ["weights"]) as run:
        for step in range(points):
            run.metric("loss", 1.0 / (step + 1), step)
        run.tag("colour@", "blue")
        run.dataset("digits", "d" * 32, "data/images", "train")
        run.model("a", "weights")
        run.artifact("weights", "figures")


def assert_complete(uri: str, points: int = 5) -> None:
    (run,) = runs(uri)
    client, _ = connect(uri)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train@a"
    assert run.data.params["network.width"] == "8"
    assert len(run.data.params["text"]) == PARAM_LIMIT
    assert run.data.tags["colour:"] == "blue"
    assert run.data.tags["dvc.stage"] == "train@a"
    assert history(uri, run.info.run_id, "loss") == [(step, 1.0 / (step + 1)) for step in range(points)]
    assert [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs] == [("digits", "d" * 32)]
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, model.tags["isocline.path"]) == ("a", run.info.run_id, "weights")
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/weights"]


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


def failing(uri: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store's client, whose every log_batch raises; the patch is undone by `monkeypatch.undo`."""
    client, experiment = connect(uri)

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(client, "log_batch", refuse)
    monkeypatch.setattr("isocline.tracking.sender.connect", lambda uri: (client, experiment))
    return client


@pytest.mark.parametrize(
    "code",
    [
        "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED",
        "TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "401", "403", "429",
    ],
)  # fmt: skip
def test_store_that_refuses_access_or_is_busy_gets_everything_later(
    code: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import RestException

    parent = Spool(RUNS / "pipeline/one/spool-parent")
    parent.open("all", "pipeline")
    parent.append({"e": "status", "v": "FINISHED"})
    parent.close()
    with monkeypatch.context() as patch:
        patch.setenv("ISOCLINE_PARENT", "pipeline/one/spool-parent")
        small_stage()
    warnings: list[str] = []
    with monkeypatch.context() as patch:
        failing(store, RestException({"error_code": code, "message": "no"}), patch)
        report = Sender(warn=warnings.append).send_all(forget=True)
    assert report.pending == 1
    assert len(spools_under(RUNS)) == 2, "the parent waits for its child"
    assert len(warnings) == 1
    assert "sent later" in warnings[0]
    assert sync().pending == 0
    found = {run.info.run_name: run for run in runs(store)}
    child = found["train@a"]
    assert len(history(store, child.info.run_id, "loss")) == 5
    assert child.data.params["network.width"] == "8"
    assert child.data.tags["mlflow.parentRunId"] == found["all"].info.run_id


def test_what_is_too_large_for_the_server_does_not_hold_up_the_rest(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    small_stage()
    client = failing(store, RuntimeError(), monkeypatch)
    monkeypatch.undo()
    answer = requests.Response()
    answer.status_code = 413

    def refuse(*_: Any) -> None:
        raise requests.HTTPError("413 Request Entity Too Large", response=answer)

    monkeypatch.chdir(Path(store.removeprefix("sqlite:///")).parent)
    monkeypatch.setattr(client, "log_artifact", refuse)
    monkeypatch.setattr(
        "isocline.tracking.sender.connect",
        lambda uri: (client, client.get_experiment_by_name("isocline").experiment_id),
    )
    warnings: list[str] = []
    assert Sender(warn=warnings.append).send_all().pending == 0
    assert len(warnings) == 1
    assert "refuses artifact" in warnings[0]
    assert runs(store)[0].info.status == "FINISHED"


def test_credentials_of_an_address_are_neither_said_nor_written(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_stage()
    opened = connect(store)
    warnings: list[str] = []
    address = f"http://me:p@ss-word@127.0.0.1:{free_port()}"
    report = Sender(uri=address, warn=warnings.append).send_all()
    monkeypatch.setattr("isocline.tracking.sender.connect", lambda uri: opened)
    sender = Sender(uri=address)
    assert sender.send_all().pending == 0
    (spool,) = spools_under(RUNS)
    written = [path.read_text() for path in spool.directory.glob("*.json*")]
    assert len(written) == 2
    with PipelineRun("all") as parent:
        parent.finish(True, sender)
    written += [path.read_text() for path in Path("reports").iterdir()]
    shown = address.replace("me:p@ss-word@", "")
    assert json.loads(Path("reports/runs.js").read_text().split(" = ")[1][:-2])["ui_url"] == shown
    assert not [text for text in [*written, *warnings, str(report.error)] if "ss-word" in text]


def test_unreachable_server_is_named_once_and_everything_is_sent_when_it_is_another(store: str) -> None:
    small_stage()
    warnings: list[str] = []
    away = Sender(uri=f"http://127.0.0.1:{free_port()}", warn=warnings.append)
    for _ in range(2):
        report = away.send_all(forget=True)
        assert (report.sent, report.pending) == (0, 1)
    assert len(warnings) == 1
    assert "kept in .runs" in warnings[0]
    assert sync(uri=store).pending == 0
    assert_complete(store)


def test_folder_as_store_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"sqlite:///mlruns\.db"):
        Sender(uri="mlruns")


def test_long_values_are_cut_but_stay_different() -> None:
    first, second = shorten("x" * 7000 + "a", 6000), shorten("x" * 7000 + "b", 6000)
    assert len(first) == len(second) == 6000
    assert first != second
    assert shorten("short", 6000) == "short"


def test_forbidden_characters_of_names_are_replaced() -> None:
    assert allowed("stage.train@flow") == "stage.train:flow"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(port: int, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.slow
def test_real_server_that_goes_away_and_comes_back_misses_nothing(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    warnings: list[str] = []
    sender = Sender(warn=warnings.append)
    Path("weights").write_text("w")
    with server(port, tmp_path):
        sender.send_all()
        stage = open_stage("train@a", {"network": {"width": 8}, "text": "x" * 9000}, ["weights"], ["weights"])
        run = stage.__enter__()
        run.metric("loss", 1.0, 0)
        assert sender.send_all().error is None
    for step in range(1, 5):
        run.metric("loss", 1.0 / (step + 1), step)
    assert sender.send_all().error is not None
    run.tag("colour@", "blue")
    run.dataset("digits", "d" * 32, "data/images", "train")
    run.model("a", "weights")
    run.artifact("weights", "figures")
    stage.__exit__(None, None, None)
    assert sender.send_all().pending == 1
    assert len(warnings) == 1
    with server(port, tmp_path):
        assert sync().pending == 0
        assert_complete(uri)


@pytest.mark.slow
def test_two_processes_that_first_use_a_store_at_once_both_succeed(tmp_path: Path) -> None:
    code = "from isocline.tracking.store import connect; print(connect()[1])"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
