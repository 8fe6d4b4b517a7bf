"""The parts of the report: numbers, tables, charts, pictures, the lineage graph, the README's figures."""

from __future__ import annotations

import io
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isocline.report import export_figures, lineage, pictures, tables
from isocline.report.charts import curve_series, smooth
from isocline.report.figures import Axis, Rule, Series, line_chart, linear_ticks, log_ticks, number
from isocline.report.sources import Model, Reading, read_sources

Project = tuple[Path, dict[str, Any]]


def model(name: str, teacher: str | None = None, **curve: list[float]) -> Model:
    entries = {
        k[1:]: {"mean": sum(v) / len(v), "sd": 1.0, "se": 0.5, "n": len(v), "values": v} for k, v in curve.items()
    }
    return Model(name, "images", teacher, {}, metrics={"frechet": entries})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1.66049, "1.66"),
        (92.46, "92.5"),
        (161.7, "162"),
        (0.00712, "0.00712"),
        (-0.5, "−0.500"),
        (12345.0, "12\u202f345"),
    ],
)
def test_numbers_show_three_significant_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_readings_refuse_what_is_no_finite_number() -> None:
    assert Reading.parse({"mean": math.nan}) is None
    assert Reading.parse(True) is None
    assert Reading.parse("3") is None
    assert Reading.parse(2) == Reading(2.0)


def test_difference_of_paired_seeds_is_the_student_interval_by_hand() -> None:
    a, b = Reading(2.0, values=(1.0, 2.0, 3.0)), Reading(1.0, values=(0.5, 1.0, 1.5))
    found = tables.difference(a, b)
    half = 4.302653 * 0.5 / math.sqrt(3)  # t quantile with 2 degrees of freedom; differences 0.5, 1, 1.5
    assert found.paired
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half), rel=1e-6)


def test_difference_without_seeds_is_not_called_paired() -> None:
    cell = tables.difference_cell(Reading(2.0, 0.1, 0.01, 100), Reading(1.0, 0.1, 0.01, 100), lower_is_better=True)
    assert "not paired" in cell.title
    assert cell.apart
    assert not cell.better


def test_students_are_compared_with_their_teacher_and_teachers_with_the_first() -> None:
    models = (model("flow", _1=[9, 10], _2=[4, 5]), model("quick", "flow", _1=[5, 6]), model("vp", _2=[6, 7]))
    table = tables.difference_table(models, "frechet", "", {})
    assert [row.head for row in table.rows] == ["quick − flow", "vp − flow"]
    assert [cell.text for cell in table.rows[0].cells] == ["−4.00", "–"]
    assert table.rows[0].cells[0].better


def test_best_of_a_column_is_the_lowest_distance_and_never_the_floor() -> None:
    models = (model("flow", _1=[9, 10]), model("quick", "flow", _1=[5, 6]))
    models[0].metrics["floor"] = {"frechet": 1.0}  # type: ignore[index]
    table = tables.curve_table(models, "frechet", "", {}, "floor")
    assert [(row.head, row.cells[0].best) for row in table.rows] == [("flow", False), ("quick", True), ("floor", False)]


def test_linear_ticks_are_round_and_inside() -> None:
    assert linear_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert linear_ticks(-0.07, 3.07) == [0.0, 1.0, 2.0, 3.0]


def test_log_ticks_thin_out_over_many_decades() -> None:
    assert log_ticks(1, 60) == [1, 2, 5, 10, 20, 50]
    assert log_ticks(0.1, 10000) == [0.1, 1, 10, 100, 1000, 10000]


def test_a_curve_runs_where_its_values_say() -> None:
    drawing = str(
        line_chart(
            [Series("a", (1, 2, 4), (8, 4, 2))], Axis("NFE", "log", (1, 2, 4)), Axis("d", "log"), description="d"
        )
    )
    path = re.search(r'class="line" d="M([^"]+)"', drawing)
    assert path
    points = np.array([[float(v) for v in p.split()] for p in path[1].split("L")])
    assert np.allclose(np.diff(points[:, 0]), np.diff(points[:, 0])[0], atol=0.11)  # even steps of a doubling
    assert np.allclose(np.diff(points[:, 1]), np.diff(points[:, 1])[0], atol=0.11)
    assert points[0, 1] < points[1, 1]  # a larger value stands higher


def test_points_that_a_log_axis_cannot_show_are_left_out() -> None:
    drawing = str(line_chart([Series("a", (1, 2, 4), (8, math.nan, -2))], Axis("x"), Axis("y", "log"), description=""))
    assert drawing.count('class="mark"') == 1
    assert "nan" not in drawing


def test_labels_of_charts_are_escaped() -> None:
    drawing = str(
        line_chart(
            [Series("<b>", (1, 2), (1, 2))],
            Axis("<i>"),
            Axis("y"),
            description='"<',
            rule=Rule("<r>", 1.0),
            end_labels=True,
        )
    )
    assert not re.search(r"<b>|<i>|<r>", drawing)


def test_bands_are_one_standard_deviation() -> None:
    series = curve_series([model("flow", _1=[9.0, 11.0])], "frechet", {})
    assert (series[0].low, series[0].high) == ((9.0,), (11.0,))


def test_smoothing_averages_in_bins_and_skips_what_is_not_finite() -> None:
    places, means = smooth([1.0, 3.0, math.nan, 5.0], bins=2)
    assert means == [2.0, 5.0]
    assert places == pytest.approx([0.5 / 3, 2.5 / 3])


def test_tiles_keep_every_pixel_in_reading_order() -> None:
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 1, 2, 2)
    sheet = pictures.tile(images, columns=2, gap=1)
    assert sheet.shape == (5, 5)
    assert (sheet[:2, 3:] == images[1, 0]).all()
    assert (sheet[3:, :2] == images[2, 0]).all()
    assert (sheet[2] == 128).all()


def test_film_has_one_sample_a_row_and_time_from_left_to_right() -> None:
    states = np.zeros((3, 2, 1, 1, 1), np.uint8)
    states[:, :, 0, 0, 0] = [[0, 10], [1, 11], [2, 12]]
    assert pictures.film(states, rows=2, gap=0).tolist() == [[0, 1, 2], [10, 11, 12]]


def test_png_is_lossless_in_colour_and_without_metadata() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    encoded = pictures.png(pixels)
    image = Image.open(io.BytesIO(encoded))
    assert (np.asarray(image) == pixels).all()
    assert image.info == {}


def test_foreach_and_matrix_expand_as_dvc_names_them() -> None:
    stages = {
        "train": {"foreach": "${models}", "do": {"cmd": "x", "deps": ["data/${item.kind}"], "outs": ["m/${key}"]}},
        "list": {"foreach": ["a", "b"], "do": {"cmd": "x", "outs": ["l/${item}"]}},
        "grid": {"matrix": {"model": ["a", "b"], "seed": [1, 2]}, "cmd": "x", "outs": ["g/${item.model}/${item.seed}"]},
    }
    found = {s.name: s for s in lineage.expand(stages, {"models": {"flow": {"kind": "images"}}})}
    assert list(found) == ["train@flow", "list@a", "list@b", "grid@a-1", "grid@a-2", "grid@b-1", "grid@b-2"]
    assert found["train@flow"].deps == ("data/images",)
    assert found["grid@b-1"].outs == ("g/b/1",)


def test_edges_that_others_imply_are_left_out() -> None:
    stages = {
        "prepare": {"outs": ["data"]},
        "train": {"deps": ["data"], "outs": ["model"]},
        "evaluate": {"deps": ["data/test.bin", "model"], "metrics": [{"m.json": {"cache": False}}]},
        "report": {"deps": ["m.json", "data"]},
    }
    graph = lineage.build_graph(stages, {})
    assert graph.edges == (("evaluate", "report"), ("prepare", "train"), ("train", "evaluate"))


def test_lineage_of_the_pipeline_leads_from_data_through_teacher_and_student_to_the_report(project: Project) -> None:
    root, params = project
    sources = read_sources(root, params)
    graph = lineage.build_graph(sources.stages, params)
    chain = ["prepare-images", "train@flow", "pairs", "distill@reflow", "evaluate-images@reflow", "report"]
    assert set(pairwise(chain)) <= set(graph.edges)
    drawing = str(lineage.draw(graph, {}))
    assert drawing.count('class="node"') == len(graph.stages) == 22


def test_teachers_stand_before_their_own_students(project: Project) -> None:
    sources = read_sources(*project)
    assert [m.name for m in sources.of("images")] == ["flow", "reflow", "consistency", "vp"]
    assert sources.model("flow").parameters == 96 * 96 + 96  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_readme_figures_are_written_twice_the_same(project: Project, tmp_path: Path) -> None:
    first = export_figures(*project, tmp_path / "a")
    second = export_figures(*project, tmp_path / "b")
    names = {path.name for path in first}
    assert {"nfe-images.png", "samples-flow.png", "trajectory-reflow.png", "text-masked.png"} <= names
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_no_artefacts_no_figures(tmp_path: Path, project: Project) -> None:
    assert export_figures(tmp_path, project[1], tmp_path / "out") == []
