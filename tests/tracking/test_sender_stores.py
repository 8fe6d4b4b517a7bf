"""Stores that refuse, are busy or are away get everything later, and are named."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tracking.stored_runs import assert_complete, history, runs, small_stage

from isocline.tracking.pipeline_run import PipelineRun
from isocline.tracking.sender import Sender, sync
from isocline.tracking.spool import RUNS, Spool, spools_under
from isocline.tracking.stage import open_stage
from isocline.tracking.store import connect


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
