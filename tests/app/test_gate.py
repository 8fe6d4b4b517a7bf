"""The gate fails outside the measured band, passes within it, and names the metric."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from isocline.app.gate import (
    Baseline,
    Reading,
    accept,
    compare,
    direction_of,
    flatten,
    gate,
    read_metrics,
    regressions,
    table,
    tolerance,
)


def write(directory, frechet, se=0.1, extra=None):
    directory.mkdir(parents=True, exist_ok=True)
    tree = {
        "protocol": {"samples": 500},
        "frechet": {"1": {"mean": frechet, "sd": 0.2, "se": se, "n": 4}},
        "bits_per_dim": {"mean": 2.0, "se": 0.01, "n": 100, "kind": "unbiased"},
        **(extra or {}),
    }
    (directory / "evaluate-flow.json").write_text(json.dumps(tree))
    return directory


def seeds(root, values=(10.0, 10.5, 9.5, 10.0)):
    return [write(root / f"seed-{i}" / "metrics", value) for i, value in enumerate(values)]


def test_numbers_with_errors_flatten_to_one_reading_each():
    tree = {"a": {"8": {"mean": 1.0, "sd": 0.1, "se": 0.05, "n": 4}}, "b": 2, "kind": "exact", "ok": True, "c": [1]}
    assert dict(flatten(tree, "f")) == {"f.a.8": Reading(1.0, 0.05, 4), "f.b": Reading(2.0)}


def test_descriptions_of_the_protocol_are_not_metrics():
    assert dict(flatten({"protocol": {"samples": 3}, "x": 1.0})) == {"x": Reading(1.0)}


def test_a_non_finite_metric_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"evaluate-flow\.frechet"):
        dict(flatten({"frechet": math.nan}, "evaluate-flow"))


def test_the_band_is_students_prediction_interval_over_seeds():
    baseline = Baseline(10.0, 0.5, 3, None, None, "lower", "")
    assert tolerance(baseline, Reading(10.0), confidence=0.95) == pytest.approx(4.302653 * 0.5 * math.sqrt(4 / 3))


def test_spread_is_never_below_the_runs_own_sampling_error():
    lucky = Baseline(10.0, 0.0, 3, 0.5, 4, "lower", "")
    assert tolerance(lucky, Reading(10.0), confidence=0.95) == pytest.approx(4.302653 * 0.5 * math.sqrt(4 / 3))


def test_single_run_errors_add_in_quadrature():
    baseline = Baseline(10.0, None, 1, 0.3, 5, "lower", "")
    band = tolerance(baseline, Reading(10.0, 0.4, 5), confidence=0.95)
    degrees = 0.25**2 / (0.3**4 / 4 + 0.4**4 / 4)
    assert 2.306 < band / 0.5 < 2.776
    assert 4 < degrees < 8


def test_metrics_without_spread_still_have_a_floor():
    assert tolerance(Baseline(4.0, None, 1, None, None, "both", ""), Reading(4.0)) == pytest.approx(0.04)
    assert tolerance(Baseline(4.0, 0.0, 3, None, None, "both", ""), Reading(4.0)) == pytest.approx(4e-6)


def test_a_metric_within_the_band_passes(tmp_path):
    accept(tmp_path, "smoke", seeds(tmp_path))
    write(tmp_path / "metrics", 10.9)
    verdicts = gate(tmp_path, "smoke")
    assert {v.status for v in verdicts} == {"passed"}
    assert regressions(verdicts) == []


def test_a_metric_that_left_the_band_fails_and_is_named(tmp_path):
    accept(tmp_path, "smoke", seeds(tmp_path))
    write(tmp_path / "metrics", 40.0)
    failed = regressions(gate(tmp_path, "smoke"))
    assert [v.key for v in failed] == ["evaluate-flow.frechet.1"]
    out = io.StringIO()
    Console(file=out, width=160).print(table(failed))
    text = out.getvalue()
    for part in ("evaluate-flow.frechet.1", "10", "40", "±", "regressed"):
        assert part in text


def test_an_improvement_beyond_the_band_is_told_and_does_not_fail():
    baseline = {"evaluate-flow.frechet.1": Baseline(10.0, 0.01, 5, None, None, "lower", "")}
    verdicts = compare(baseline, {"evaluate-flow.frechet.1": Reading(1.0)})
    assert [v.status for v in verdicts] == ["improved"]
    assert regressions(verdicts) == []


def test_a_metric_with_no_better_side_fails_both_ways():
    baseline = {"e.entropy.8": Baseline(3.0, 0.01, 5, None, None, "both", "")}
    for value in (2.0, 4.0):
        assert [v.status for v in compare(baseline, {"e.entropy.8": Reading(value)})] == ["regressed"]


def test_a_missing_metric_fails_and_a_new_one_is_reported(tmp_path):
    accept(tmp_path, "smoke", seeds(tmp_path))
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "evaluate-flow.json").write_text('{"bits_per_dim": {"mean": 2.0}, "recall": 0.5}')
    verdicts = {v.key: v.status for v in gate(tmp_path, "smoke")}
    assert verdicts == {
        "evaluate-flow.bits_per_dim": "passed",
        "evaluate-flow.frechet.1": "missing",
        "evaluate-flow.recall": "new",
    }


def test_metrics_that_no_stage_of_this_pipeline_writes_are_left_out(tmp_path):
    (tmp_path / "params.yaml").write_text("models: {flow: {}}\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  evaluate:\n    foreach: ${models}\n    do:\n      cmd: run ${key}\n"
        "      metrics:\n        - metrics/evaluate-${key}.json: {cache: false}\n"
    )
    metrics = write(tmp_path / "metrics", 10.0)
    (metrics / "evaluate-big.json").write_text('{"recall": 0.5}')
    assert {key.split(".")[0] for key in json.loads(accept(tmp_path, "smoke").read_text())} == {"evaluate-flow"}
    assert {verdict.status for verdict in gate(tmp_path, "smoke")} == {"passed"}


def test_accept_takes_the_spread_from_several_runs(tmp_path):
    path = accept(tmp_path, "smoke", seeds(tmp_path))
    entry = json.loads(path.read_text())["evaluate-flow.frechet.1"]
    assert entry["value"] == pytest.approx(10.0)
    assert entry["spread"] == pytest.approx(math.sqrt(0.5 / 3))
    assert (entry["runs"], entry["direction"]) == (4, "lower")


def test_accept_of_one_run_says_that_training_noise_is_not_in_it(tmp_path):
    write(tmp_path / "metrics", 10.0)
    entry = json.loads(accept(tmp_path, "smoke").read_text())["evaluate-flow.frechet.1"]
    assert entry["spread"] is None
    assert "sampling noise only" in entry["source"]
    assert regressions(gate(tmp_path, "smoke")) == []


@pytest.mark.parametrize("count", [2, 3])
def test_so_few_runs_that_nothing_could_fail_are_refused(tmp_path, count):
    with pytest.raises(ValueError, match=rf"^{count} runs given.*standard deviations.*at least 4 runs") as caught:
        accept(tmp_path, "smoke", seeds(tmp_path)[:count])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "baselines").exists()


def test_a_run_named_twice_is_refused(tmp_path):
    runs = seeds(tmp_path)
    with pytest.raises(ValueError, match="given twice"):
        accept(tmp_path, "smoke", [*runs, runs[0].parent / "." / "metrics"])


def test_one_named_run_is_a_baseline_of_one_run(tmp_path):
    entry = json.loads(accept(tmp_path, "smoke", seeds(tmp_path)[:1]).read_text())["evaluate-flow.frechet.1"]
    assert (entry["runs"], entry["spread"]) == (1, None)


def test_accepting_twice_writes_the_same_bytes(tmp_path):
    runs = seeds(tmp_path)
    first = accept(tmp_path, "smoke", runs).read_bytes()
    assert accept(tmp_path, "smoke", runs).read_bytes() == first


def test_runs_of_different_pipelines_are_refused(tmp_path):
    runs = [*seeds(tmp_path), write(tmp_path / "b", 1.0)]
    (runs[-1] / "evaluate-other.json").write_text('{"kernel": 0.1}')
    with pytest.raises(ValueError, match=r"evaluate-other\.json; accept runs of one pipeline"):
        accept(tmp_path, "smoke", runs)
    assert not (tmp_path / "baselines").exists()


def test_metrics_that_not_every_seed_has_are_left_out_and_said(tmp_path):
    said = []
    runs = [*seeds(tmp_path), write(tmp_path / "b", 10.0, extra={"reached": 0.1})]
    entries = json.loads(accept(tmp_path, "smoke", runs, said.append).read_text())
    assert "evaluate-flow.frechet.1" in entries
    assert "evaluate-flow.reached" not in entries
    assert said == ["1 metrics are left out, which not every run has: evaluate-flow.reached"]


def test_absent_or_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="gate --accept"):
        gate(tmp_path, "smoke")
    with pytest.raises(ValueError, match="dvc repro"):
        read_metrics(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is not JSON"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("key", "better"),
    [
        ("evaluate-flow.frechet.8", "lower"),
        ("evaluate-flow.frechet_train.8", "lower"),
        ("evaluate-flow.recall.32", "higher"),
        ("evaluate-ar.generative_perplexity.48", "lower"),
        ("evaluate-ar.entropy.48", "both"),
        ("evaluate-flow.floor.frechet", "both"),
        ("judge-images.accuracy", "higher"),
        ("stability-flow.precision_loss.float32", "lower"),
    ],
)
def test_each_metric_knows_its_better_side(key, better):
    assert direction_of(key) == better
