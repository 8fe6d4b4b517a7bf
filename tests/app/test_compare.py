"""Comparison of runs: values, differences with intervals, sources."""

from __future__ import annotations

import json
import subprocess

import pytest

from isocline.app.compare import compare, group_readings, show
from isocline.metrics.uncertainty import Estimate, independent_difference


def write(root, name, mean, se=0.1):
    (root / "metrics").mkdir(exist_ok=True)
    tree = {
        "frechet": {"4": {"mean": mean, "sd": 0.2, "se": se, "n": 4}, "8": {"mean": mean / 2, "se": se, "n": 4}},
        "bits_per_dim": {"mean": 2.0, "se": None, "n": 1, "kind": "exact"},
        "protocol": {"samples": 500},
    }
    (root / "metrics" / f"evaluate-{name}.json").write_text(json.dumps(tree))


def git(root, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def row(comparison, name):
    return next(row for row in comparison.rows if row.name == name)


def test_two_models_are_compared_metric_by_metric(tmp_path):
    write(tmp_path, "flow", 10.0)
    write(tmp_path, "reflow", 12.0, se=0.2)
    comparison = compare(["flow", "reflow"], tmp_path)
    assert [r.name for r in comparison.rows] == ["bits_per_dim", "frechet @4", "frechet @8"]
    (difference,) = row(comparison, "frechet @4").differences
    wanted = independent_difference(Estimate(12.0, None, 0.2, 4), Estimate(10.0, None, 0.1, 4))
    assert (difference.mean, difference.low, difference.high) == (wanted.mean, wanted.low, wanted.high)
    assert difference.mean == pytest.approx(2.0)
    assert difference.significant


def test_a_difference_without_standard_errors_has_no_interval(tmp_path, capsys):
    write(tmp_path, "flow", 10.0)
    write(tmp_path, "reflow", 10.0)
    (difference,) = row(compare(["flow", "reflow"], tmp_path), "bits_per_dim").differences
    assert not difference.significant
    show(compare(["flow", "reflow"], tmp_path, contains="bits"))
    assert "no interval" in capsys.readouterr().out


def test_a_revision_is_compared_with_the_workspace(tmp_path, capsys):
    git(tmp_path, "init", "-q")
    write(tmp_path, "flow", 10.0)
    write(tmp_path, "vp", 9.0)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    write(tmp_path, "flow", 15.0)
    comparison = compare(["HEAD", "workspace"], tmp_path, contains="flow frechet @4")
    (found,) = comparison.rows
    assert found.name == "evaluate-flow frechet @4"
    assert found.differences[0].mean == pytest.approx(5.0)
    show(comparison)
    assert "+5 [" in capsys.readouterr().out


def test_descriptions_and_clocks_are_not_compared():
    triples = [("protocol/samples", 5.0, None), ("timing/seconds", 1.0, None), ("loss", 1.0, None)]
    assert list(group_readings("g", triples)) == [("g", "loss", None)]


def test_what_cannot_be_found_or_compared_is_named(tmp_path):
    write(tmp_path, "flow", 10.0)
    with pytest.raises(ValueError, match="at least two"):
        compare(["flow"], tmp_path)
    with pytest.raises(ValueError, match="never-was"):
        compare(["flow", "never-was"], tmp_path)
    with pytest.raises(ValueError, match="share no metric"):
        compare(["flow", "flow"], tmp_path, contains="zzz")
    (tmp_path / "metrics" / "evaluate-bad.json").write_text("{")
    with pytest.raises(ValueError, match="isocline repro"):
        compare(["flow", "bad"], tmp_path)


def test_metrics_that_are_no_mapping_are_named(tmp_path):
    write(tmp_path, "flow", 10.0)
    (tmp_path / "metrics" / "evaluate-bad.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"evaluate-bad\.json.*a list.*isocline repro"):
        compare(["flow", "bad"], tmp_path)


@pytest.mark.parametrize("uri", ["http://user:secret@127.0.0.1:9", "foo://x"])
def test_a_store_that_is_away_is_one_line_without_credentials(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(OSError, match="MLFLOW_TRACKING_URI") as caught:
        compare(["0" * 32, "1" * 32], tmp_path)
    message = str(caught.value)
    assert "0" * 32 in message
    assert len(message) < 400
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.slow
def test_tracked_runs_are_compared_over_their_curves(tmp_path, monkeypatch):
    from isocline.tracking.store import connect

    monkeypatch.chdir(tmp_path)
    client, experiment = connect()
    ids = []
    for name, value in (("flow", 10.0), ("reflow", 12.0)):
        run = client.create_run(experiment, tags={"dvc.stage": f"evaluate-images@{name}"})
        for step in (4, 8):
            client.log_metric(run.info.run_id, "frechet", value + step, step=step)
            client.log_metric(run.info.run_id, "frechet/se", 0.1, step=step)
            client.log_metric(run.info.run_id, "frechet/n", 4, step=step)
        ids.append(run.info.run_id)
    comparison = compare(ids, tmp_path)
    assert [r.name for r in comparison.rows] == ["frechet @4", "frechet @8"]
    assert all(r.differences[0].mean == pytest.approx(2.0) and r.differences[0].significant for r in comparison.rows)
    with pytest.raises(ValueError, match="no MLflow run"):
        compare([ids[0], "0" * 32], tmp_path)
