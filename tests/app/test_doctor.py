"""The doctor finds planted faults, names the cure, and calls a healthy project healthy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from isocline.app import doctor
from isocline.app.doctor import Finding, examine, port_is_free, safetensors_problem

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one data set, one model, a lock file and a tracking store, all in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOCLINE_THREADS", raising=False)
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "config").write_text("[hydra]\n    enabled = True\n")
    (tmp_path / "params.yaml").write_text("seed: 0\nthreads: 1\nprofile: laptop\n")
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    tensors = safetensors(8)
    (images / "train.safetensors").write_bytes(tensors)
    card = {"name": "x", "sha256": {"train.safetensors": hashlib.sha256(tensors).hexdigest()}}
    (images / "card.json").write_text(json.dumps(card))
    from isocline.tracking.provenance import digest

    lock = {"prepare-images": {"outs": [{"path": "data/images", "md5": digest(images)}]}}
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("create table runs (id text)")
    return tmp_path


def safetensors(size):
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def found(root, subject, check):
    return [finding for finding in check(root) if finding.subject == subject]


def bad(findings):
    return [finding for finding in findings if finding.level != "ok"]


def test_a_healthy_project_has_no_faults(project):
    for check in (doctor._threads, doctor._pipeline, doctor._data_cards, doctor._artefacts, doctor._tracking):
        assert [f for f in bad(check(project)) if "load" not in f.message] == []


def test_every_fault_comes_with_a_cure(project):
    (project / "params.yaml").unlink()
    (project / "dvc.lock").unlink()
    findings = examine(project)
    assert {"params.yaml", "pipeline"} <= {finding.subject for finding in bad(findings)}
    assert all(finding.cure for finding in bad(findings))
    assert all("\n" not in str(finding) for finding in findings)


def test_a_changed_data_file_differs_from_its_card_and_from_the_lock(project):
    path = project / "data" / "images" / "train.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    (card,) = bad(doctor._data_cards(project))
    assert card.level == "error"
    assert "train.safetensors" in card.subject
    (lock,) = bad(doctor._pipeline(project))
    assert "prepare-images" in lock.message
    assert "dvc checkout data/images" in lock.cure
    assert bad(doctor._artefacts(project)) == []


def test_a_missing_output_is_a_warning_with_its_stage(project):
    shutil.rmtree(project / "data" / "images")
    (finding,) = bad(doctor._pipeline(project))
    assert finding.level == "warning"
    assert "prepare-images" in finding.message


@pytest.mark.parametrize("keep", [0, 5, 20, -1])
def test_a_truncated_tensor_file_is_damaged(project, keep):
    path = project / "data" / "images" / "train.safetensors"
    content = path.read_bytes()
    assert safetensors_problem(path) is None
    path.write_bytes(content[:keep])
    assert safetensors_problem(path)
    assert bad(doctor._artefacts(project))[0].cure == "rm -r data/images && isocline repro"


def test_a_header_that_is_no_header_is_damaged(tmp_path):
    path = tmp_path / "x.safetensors"
    for content in (b"\xff" * 64, (4).to_bytes(8, "little") + b"oops", (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(content)
        assert safetensors_problem(path)


def test_a_damaged_lock_or_card_is_named(project):
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    (project / "data" / "images" / "card.json").write_text("{")
    assert bad(doctor._pipeline(project))[0].subject == "dvc.lock"
    assert bad(doctor._data_cards(project))[0].subject == "data/images/card.json"


def test_a_damaged_tracking_store_is_named(project):
    (project / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\x07" * 4096)
    (finding,) = bad(doctor._tracking(project))
    assert finding.level == "error"
    assert "mlflow.db" in finding.message
    assert "isocline sync" in finding.cure


def test_a_server_that_is_away_is_named(project, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    (finding,) = bad(doctor._tracking(project))
    assert str(port) in finding.message
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "runs")
    assert "sqlite:///" in bad(doctor._tracking(project))[0].cure


@pytest.fixture
def server():
    """A tracking server that is healthy and answers the question for experiments as ``answer`` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, b"OK")

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.server.asked.append((self.path, self.headers["Authorization"]))
            self.reply(*self.server.answer)

        def reply(self, status, content):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        running.answer = (200, b'{"experiments": []}')
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_server_is_asked_for_an_experiment_and_its_address_is_shown_without_credentials(project, server, monkeypatch):
    place = f"127.0.0.1:{server.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{place}")
    (finding,) = doctor._tracking(project)
    assert finding.level == "ok"
    assert finding.message.startswith(f"http://{place} ")
    ((path, authorization),) = server.asked
    assert path.endswith("/experiments/search")
    assert authorization.startswith("Basic ")


@pytest.mark.parametrize(
    ("answer", "cure"),
    [
        ((403, b"Invalid Host header - possible DNS rebinding attack detected"), "--allowed-hosts '127.0.0.1:"),
        ((401, b'{"error_code": "UNAUTHENTICATED", "message": "expired"}'), "MLFLOW_TRACKING_TOKEN"),
        ((403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'), "MLFLOW_TRACKING_TOKEN"),
        ((404, b"<html>some other site</html>"), "its address"),
    ],
)
def test_a_healthy_server_that_refuses_the_question_is_named_with_the_cure(project, server, monkeypatch, answer, cure):
    server.answer = answer
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}")
    (finding,) = bad(doctor._tracking(project))
    assert finding.level == "error"
    assert cure in finding.cure
    assert "isocline sync" in finding.cure
    assert "secret" not in str(finding)


def test_more_threads_than_cores_is_a_warning(project):
    (project / "params.yaml").write_text("threads: 5000\n")
    (finding,) = bad(found(project, "threads", doctor._threads))
    assert "threads=" in finding.cure
    (project / "params.yaml").write_text("threads: none\n")
    assert found(project, "threads", doctor._threads)[0].level == "error"


def test_other_work_on_the_cores_is_a_warning(project, monkeypatch):
    (project / "params.yaml").write_text("threads: 2\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 1.0, 1.0))
    assert found(project, "threads", doctor._threads)[0].level == "warning"
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 1.0, 1.0))
    assert found(project, "threads", doctor._threads)[0].level == "ok"


def test_a_full_disk_is_an_error(project, monkeypatch):
    usage = shutil.disk_usage(project)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    assert next(doctor._disk(project)).level == "error"


def test_an_occupied_port_is_seen(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free(port)
        assert next(doctor._port(tmp_path, port)).cure == f"isocline ui --port {port + 1}"
    assert port_is_free(port)


def test_a_lock_of_a_process_that_ended_is_seen(project):
    child = subprocess.Popen(["true"])
    child.wait()
    lock = project / ".dvc" / "tmp" / "rwlock"
    lock.write_text(json.dumps({"/data": {"write": {"pid": child.pid, "cmd": "dvc repro"}}}))
    assert str(child.pid) in found(project, "dvc lock", doctor._history)[0].message
    lock.write_text(json.dumps({"/data": {"read": [{"pid": os.getpid(), "cmd": "dvc repro"}]}}))
    assert found(project, "dvc lock", doctor._history) == []


def test_parameters_that_cannot_run_are_named(project):
    findings = list(doctor._configuration(project))
    assert findings
    assert any("models" in finding.message for finding in findings)
    (project / "params.yaml").write_text("a: [\n")
    assert next(doctor._configuration(project)).level == "error"


def test_a_check_that_breaks_is_a_finding(project, monkeypatch):
    monkeypatch.setattr(doctor, "port_is_free", lambda port: 1 / 0)
    assert any(f.subject == "port" and "ZeroDivisionError" in f.message for f in examine(project))


def test_a_finding_is_one_line_with_its_cure():
    assert str(Finding("error", "disk", "full", "make room")) == "ERROR disk: full; cure: make room"
