"""The files that evaluations write."""

from __future__ import annotations

import json
import math

import pytest

from isocline.app.evaluation_stage import metrics_document, write_curve, write_json
from isocline.app.gate import Reading, flatten
from isocline.metrics.uncertainty import Estimate

CURVES = {
    "frechet": {2: Estimate(3.0, 0.5, 0.25, 4), 16: Estimate(1.0, None, None, 1)},
    "recall": {16: Estimate(0.5, 0.1, 0.05, 4)},
}


def test_a_curve_has_one_row_per_budget_and_blanks_where_nothing_was_measured(tmp_path):
    write_curve(tmp_path / "plots" / "nfe.csv", CURVES)
    assert (tmp_path / "plots" / "nfe.csv").read_text().splitlines() == [
        "nfe,frechet,frechet_sd,recall,recall_sd",
        "2,3,0.5,,",
        "16,1,,0.5,0.1",
    ]


def test_the_document_keeps_curves_in_rising_order_and_reads_back(tmp_path):
    floor = {"frechet": Estimate(0.9, 0.1, 0.05, 4)}
    values = {"frechet": {2: [2.0, 3.0, 4.0], 16: [1.0]}}
    document = metrics_document(values, floor, {"samples": 500}, bits_per_dim={"mean": 2.0, "se": 0.1, "n": 64})
    write_json(tmp_path / "m.json", document)
    read = json.loads((tmp_path / "m.json").read_text())
    assert list(read["frechet"]) == ["2", "16"]
    assert read["frechet"]["2"] == {
        "mean": 3.0, "sd": 1.0, "se": pytest.approx(3**-0.5), "n": 3, "values": [2.0, 3.0, 4.0]
    }  # fmt: skip
    assert dict(flatten(read, "m"))["m.floor.frechet"] == Reading(0.9, 0.05, 4)
    assert "m.protocol.samples" not in dict(flatten(read, "m"))


def test_a_metric_that_is_not_finite_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "m.json", {"frechet": math.nan})
    assert not (tmp_path / "m.json").exists()
