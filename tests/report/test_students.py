"""Students beside their teacher on the page: multiples of its distance, what is left of variety, the cost."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from isocline.report import read_sources, render_page
from isocline.report.sources import Model, Reading, Sources
from isocline.report.students import ratio, student_groups


def estimate(*values: float) -> dict[str, Any]:
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return {"mean": mean, "sd": sd, "se": sd / math.sqrt(len(values)), "n": len(values), "values": list(values)}


def model(name: str, teacher: str | None = None, training: dict[str, Any] | None = None, **metrics: Any) -> Model:
    settings = {"trainer": {"steps": 700, "batch_size": 32}}
    curves = {k: {n: estimate(*v) for n, v in curve.items()} for k, curve in metrics.items()}
    return Model(name, "images", teacher, settings, metrics=curves, training=training or {})


TEACHER = model(
    "flow",
    frechet={"1": (380.0, 420.0), "4": (44.0, 36.0), "32": (19.0, 21.0)},
    recall={"1": (0.0, 0.0), "4": (0.7, 0.7), "32": (0.8, 0.84)},
    class_balance_tv={"1": (0.9, 0.9), "4": (0.2, 0.2), "32": (0.1, 0.1)},
)
GOOD = model(
    "reflow", "flow", {"steps": 650, "teacher_evaluations": 0, "pairs_evaluations": 49152},
    frechet={"1": (28.5, 31.5), "4": (19.0, 21.0)},
    recall={"1": (0.75, 0.75), "4": (0.8, 0.8)},
    class_balance_tv={"1": (0.2, 0.2), "4": (0.12, 0.12)},
)  # fmt: skip
LOST = model(
    "meanflow", "flow", {"steps": 700, "teacher_evaluations": 44800},
    frechet={"1": (38.0, 42.0), "4": (57.0, 63.0)},
    recall={"1": (0.39, 0.41), "4": (0.6, 0.6)},
    class_balance_tv={"1": (0.3, 0.3), "4": (0.5, 0.6)},
)  # fmt: skip
STUDY = {
    "best": {"5": {"all": "unipc"}, "10": {"all": "heun"}},
    "frechet": {"unipc": {"5": estimate(30.0, 34.0)}, "heun": {"5": estimate(90.0, 95.0), "10": estimate(24.0, 26.0)}},
    "protocol": {"samples": "256 images"},
}
COLOURS = {"flow": 0, "reflow": 1, "meanflow": 2}


def group(*models: Model, studies: dict[str, Any] | None = None):  # type: ignore[no-untyped-def]
    return student_groups(Sources({}, models=models, studies=studies or {}), COLOURS)


def test_a_teacher_without_students_has_no_group() -> None:
    assert group(TEACHER, model("vp")) == []
    assert [g.teacher for g in group(TEACHER, GOOD, model("vp"))] == ["flow"]


def test_a_student_of_a_student_stands_beside_the_first_teacher_and_says_who_taught_it() -> None:
    again = model("reflow_2", "reflow", frechet={"1": (24.0, 24.0)})
    found = group(TEACHER, GOOD, again)
    assert [g.teacher for g in found] == ["flow"]
    rows = {row.head: (row.note, row.cells[0].text) for row in found[0].tables[0].rows}
    assert rows == {
        "reflow": ("", "1.50 ×"), "reflow_2": ("student of reflow", "1.20 ×"), "flow": ("teacher", "20.0 ×"),
    }  # fmt: skip
    circle = model("a", "b"), model("b", "a")
    assert group(*circle) == []


def test_the_chart_has_the_teacher_its_best_solver_and_dashed_students_over_the_teachers_level() -> None:
    chart = group(TEACHER, GOOD, LOST, studies={"flow": STUDY})[0].chart
    assert [(name, "dash" in mark) for name, mark in chart.legend] == [
        ("flow", False), ("flow, best solver", False), ("reflow", True), ("meanflow", True),
    ]  # fmt: skip
    assert "flow, best solver: 5 → 32.0 (30.0 to 34.0)" in chart.wide
    assert "flow, best solver: 10 → 25.0 (24.0 to 26.0)" in chart.wide
    assert "reflow: 1 → 30.0 (28.5 to 31.5)" in chart.wide
    assert "flow at 32" in chart.narrow
    assert "256 images" in chart.note
    assert "best solver" not in str(group(TEACHER, GOOD)[0].chart)


def test_multiples_are_of_the_teachers_distance_at_its_most_evaluations_with_paired_errors() -> None:
    quality = group(TEACHER, LOST, GOOD)[0].tables[0]
    assert quality.columns == ("NFE 1", "NFE 4")
    assert [(row.head, [cell.text for cell in row.cells]) for row in quality.rows] == [
        ("meanflow", ["2.00 ×", "3.00 ×"]),
        ("reflow", ["1.50 ×", "1.00 ×"]),
        ("flow", ["20.0 ×", "2.00 ×"]),
    ]
    assert [row.reference for row in quality.rows] == [False, False, True]
    assert [cell.best for row in quality.rows for cell in row.cells] == [False, False, True, True, False, False]
    # 28.5/19 = 31.5/21: pairing leaves no error, which spreads of 1.5 and 1 alone would not show.
    assert float(quality.rows[1].cells[0].small.removeprefix("± ")) < 1e-9
    assert float(quality.rows[2].cells[1].small.removeprefix("± ")) > 0.1


def test_a_ratio_without_common_seeds_carries_both_errors() -> None:
    found = ratio(Reading(30.0, se=3.0, n=3), Reading(20.0, se=1.0, n=5))
    assert found.mean == pytest.approx(1.5)
    assert found.se == pytest.approx(1.5 * math.sqrt(0.1**2 + 0.05**2))
    assert ratio(Reading(30.0), Reading(20.0, se=1.0)).se is None


def test_a_student_that_lost_its_teachers_variety_is_named_with_its_numbers() -> None:
    found = group(TEACHER, GOOD, LOST)[0]
    assert found.collapsed == (
        "meanflow at NFE 1, recall 0.40 against 0.82 of flow; at NFE 4, class imbalance 0.55 against 0.10 of flow.",
    )
    variety = found.tables[1]
    assert variety.columns == ("recall, NFE 1", "recall, NFE 4", "imbalance, NFE 1", "imbalance, NFE 4")
    assert [(row.head, row.note) for row in variety.rows] == [
        ("reflow", ""), ("meanflow", "collapsed"), ("flow", "teacher"),
    ]  # fmt: skip
    assert [cell.best for cell in variety.rows[0].cells] == [True, True, True, True]


def test_the_cost_is_steps_and_evaluations_of_the_teacher_and_empty_columns_are_left_out() -> None:
    cost = group(TEACHER, GOOD, LOST)[0].tables[2]
    assert cost.columns == ("steps × batch", "teacher evaluations", "for pairs")
    assert [[cell.text for cell in row.cells] for row in cost.rows] == [
        ["650 × 32", "0", "49\u202f152"], ["700 × 32", "44\u202f800", "–"], ["700 × 32", "–", "–"],
    ]  # fmt: skip


def test_the_best_student_at_one_and_four_evaluations_is_a_finding() -> None:
    finding = group(TEACHER, LOST, GOOD)[0].finding
    assert re.fullmatch(
        r"Few evaluations: reflow with 1 at 1\.50 ± \S+ times, reflow with 4 at 1\.00 ± \S+ times "
        r"the distance of their teacher flow with 32\.",
        finding,
    )


def test_students_without_metrics_still_have_a_cost_and_no_chart() -> None:
    found = group(TEACHER, Model("scm", "images", "flow", {"trainer": {"steps": 5, "batch_size": 2}}))[0]
    assert found.chart is None
    assert [table.caption for table in found.tables] == ["What the students cost"]
    assert (found.collapsed, found.finding) == ((), "")


def test_the_page_has_the_section_once_and_only_where_there_are_students(
    project: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    root, params = project
    shutil.copytree(root, tmp_path / "p")
    summary = {"train_loss": 0.1, "steps": 990, "teacher_evaluations": 31680}
    (tmp_path / "p/metrics/train-consistency.json").write_text(json.dumps(summary))
    page = render_page(read_sources(tmp_path / "p", params))
    assert page.count('<section id="students">') == 1
    assert "31\u202f680" in page
    assert "Students of masked" in page
    alone = render_page(read_sources(tmp_path / "p", {**params, "students": {}}))
    assert 'id="students"' not in alone
    assert "#students" not in alone
