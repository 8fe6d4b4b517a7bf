"""MLflow's own pages draw teacher against student: an NFE curve is one metric whose step is the NFE."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CURVES = {"teacher-flow": {1: 92.5, 4: 27.6, 16: 9.5}, "student-consistency": {1: 14.6, 4: 8.0, 16: 5.2}}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(address: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"mlflow server did not come up: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real `mlflow server` on a free loopback port, with its own SQLite store."""
    folder, port = tmp_path_factory.mktemp("mlflow"), _free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    log, address = folder / "server.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, start_new_session=True)
    try:
        _wait_until_up(address, process, log)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def runs(server: str) -> tuple[str, list[str]]:
    """Two runs with metric `frechet` at steps = NFE; returns the experiment and the run ids."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server)
    experiment = client.create_experiment("isocline")
    ids = []
    for name, curve in CURVES.items():
        run = client.create_run(experiment, run_name=name)
        for nfe, value in curve.items():
            client.log_metric(run.info.run_id, "frechet", value, step=nfe)
        client.set_terminated(run.info.run_id)
        ids.append(run.info.run_id)
    return experiment, ids


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    place = Path(__file__).parents[1] / "report" / "browser.py"
    spec = importlib.util.spec_from_file_location("report_browser", place)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                               {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
        yield driver


def _open(browser: Any, address: str, *wanted: str, seconds: float = 90) -> str:
    """Open a page of MLflow's single-page application and wait until the texts stand on it."""
    browser.get("about:blank")
    browser.get(address)
    end, text = time.monotonic() + seconds, ""
    while time.monotonic() < end:
        text = str(browser.execute_script("return document.body ? document.body.innerText : ''"))
        if all(word in text for word in wanted):
            return text
        time.sleep(0.5)
    missing = [word for word in wanted if word not in text]
    pytest.fail(f"{missing} did not appear on {address} within {seconds:.0f} s; the page says: {text[:1500]!r}")


def _query(**values: Any) -> str:
    return urllib.parse.urlencode({key: json.dumps(value) for key, value in values.items()})


def test_the_comparison_page_sets_teacher_and_student_side_by_side(
    browser: Any, server: str, runs: tuple[str, list[str]]
) -> None:
    experiment, ids = runs
    text = _open(browser, f"{server}/#/compare-runs?{_query(runs=ids, experiments=[experiment])}", *CURVES, "frechet")
    assert "Comparing 2 Runs" in text
    assert all(str(curve[16]) in text for curve in CURVES.values())  # the last step is the value in the table


def test_the_metric_page_draws_both_curves_over_nfe(browser: Any, server: str, runs: tuple[str, list[str]]) -> None:
    experiment, ids = runs
    query = _query(runs=ids, metric="frechet", experiments=[experiment], plot_metric_keys=["frechet"])
    _open(browser, f"{server}/#/metric?{query}&x_axis=step", *CURVES, "frechet")
    script = (
        "const plot = document.querySelector('.js-plotly-plot');"
        "return plot && plot.data ? plot.data.map(t => [Array.from(t.x), Array.from(t.y)]) : []"
    )
    expected = sorted([list(curve), list(curve.values())] for curve in CURVES.values())
    end, drawn = time.monotonic() + 60, []
    while time.monotonic() < end and drawn != expected:
        found = browser.execute_script(script)
        drawn = sorted(curve for i, curve in enumerate(found) if curve not in found[:i])  # each is drawn twice
        time.sleep(0.3)
    assert drawn == expected
