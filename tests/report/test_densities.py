"""The section on densities: one table, one chart a point set, pictures whose pixels are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from isocline.report.densities import density_charts, density_gallery, density_tables
from isocline.report.density_pictures import density_picture, heat, histogram
from isocline.report.page import model_colours, render_page
from isocline.report.sources import read_sources

COUNTS = {"cnf": {"rtol_1e-03": 32, "rtol_1e-05": 68, "sampling": 62}, "coupling": {"pass": 1, "sampling": 1}}


def params() -> dict:
    def density(data: str, network: str) -> dict:
        return {"data": data, "network": {"_target_": f"isocline.networks.{network}"}, "objective": {}}

    return {
        "models": {},
        "students": {},
        "data": {"points": {"moons": {}, "digits": {}}},
        "densities": {
            "cnf_moons": density("moons", "ConcatSquashMLP"),
            "coupling_moons": density("moons", "CouplingFlow"),
            "cnf_digits": density("digits", "ConcatSquashMLP"),
        },
    }


def estimate(mean: float, spread: float = 0.1, n: int = 100) -> dict:
    return {"mean": mean, "sd": spread, "se": spread / n**0.5, "n": n}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    nats = {"cnf_moons": 1.8, "coupling_moons": 1.7, "cnf_digits": 9.0}
    for name, value in nats.items():
        kind, data = name.split("_")
        curve = {"4": estimate(value + 0.5), "16": estimate(value)} if kind == "cnf" else {"1": estimate(value)}
        document = {
            "nats": {**estimate(value), "kind": "exact"},
            "nats_over_nfe": curve,
            "energy_distance": estimate(0.01, 0.001, 3),
            "nfe": COUNTS[kind],
            "floor": {"energy_distance": estimate(-0.001, 0.001, 3)},
        }
        if kind == "cnf":
            document["trace_sd"] = {"hutchinson_1": estimate(0.3), "hutch_plus_plus_3": estimate(0.05)}
        (tmp_path / "metrics").mkdir(exist_ok=True)
        (tmp_path / f"metrics/evaluate-{name}.json").write_text(json.dumps(document))
        folder = tmp_path / f"data/evaluations/{name}"
        folder.mkdir(parents=True)
        tensors = {"samples": np.zeros((5, 2 if data == "moons" else 8), dtype=np.float32)}
        if data == "moons":
            tensors["log_density"] = np.zeros((6, 6), dtype=np.float32)
        save_file(tensors, folder / "density.safetensors")
        points = tmp_path / f"data/points/{data}"
        points.mkdir(parents=True, exist_ok=True)
        save_file({"points": np.zeros((7, 2), dtype=np.float32)}, points / "test.safetensors")
        (points / "card.json").write_text(json.dumps({"name": data, "licence": "CC BY 4.0"}))
    return tmp_path


def test_one_table_holds_every_density_and_marks_the_best_of_each_point_set(project: Path) -> None:
    sources = read_sources(project, params())
    flows, traces = density_tables(sources.densities, model_colours(sources))
    heads = ["cnf_moons", "coupling_moons", "moons: training data", "cnf_digits", "digits: training data"]
    assert [row.head for row in flows.rows] == heads
    by_name = {row.head: row.cells for row in flows.rows}
    assert by_name["coupling_moons"][0].best
    assert not by_name["cnf_moons"][0].best
    assert [cell.text for cell in by_name["cnf_moons"][1:4]] == ["32", "68", "62"]
    assert [cell.text for cell in by_name["coupling_moons"][1:4]] == ["1", "1", "1"]
    assert by_name["cnf_moons"][0].text == "1.800"
    assert [row.head for row in traces.rows] == ["cnf_moons", "cnf_digits"]
    assert [cell.text for cell in traces.rows[0].cells] == ["0.300", "–", "0.0500"]


def test_each_point_set_has_its_chart_with_bands_of_two_standard_errors(project: Path) -> None:
    sources = read_sources(project, params())
    moons, digits = density_charts(sources.densities, model_colours(sources))
    assert [name for name, _ in moons.legend] == ["cnf_moons", "coupling_moons"]
    assert [name for name, _ in digits.legend] == ["cnf_digits"]
    assert "cnf_moons from 2.30 to 1.80" in moons.narrow
    assert "(1.78 to 1.82)" in moons.narrow


def test_pictures_begin_with_the_data(project: Path) -> None:
    sources = read_sources(project, params())
    gallery = density_gallery(sources.densities, sources.density_tensors, sources.points)
    assert [p.name for p in gallery["moons"]] == ["Data", "cnf_moons", "coupling_moons"]
    assert [p.note for p in gallery["digits"]] == ["test split", "samples, first two coordinates"]


def test_the_page_shows_the_section_only_where_there_are_densities(project: Path) -> None:
    page = render_page(read_sources(project, params()))
    assert 'id="densities"' in page
    assert "coupling_moons" in page
    assert "Points: digits" in page
    assert 'id="densities"' not in render_page(read_sources(project, {**params(), "densities": {}}))


def test_densities_that_were_not_evaluated_leave_a_page(tmp_path: Path) -> None:
    assert "No density has been evaluated" in render_page(read_sources(tmp_path, params()))


def test_points_up_and_right_are_drawn_up_and_right() -> None:
    counts = histogram(np.array([[2.5, 2.2], [2.5, 2.2], [-2.5, -2.2]]), bins=6, extent=3.0)
    assert counts[0, 5] == 1.0
    assert counts[5, 0] == 0.5
    assert counts.sum() == 1.5


def test_higher_densities_are_darker() -> None:
    pixels = heat(np.array([[0.0, 0.25, 0.5, 0.75, 1.0, 2.0, np.nan]])).astype(int).sum(2)[0]
    assert (np.diff(pixels[:5]) < 0).all()
    assert pixels[5] == pixels[4]
    assert pixels[6] == pixels[0]


def test_the_colour_is_the_square_root_of_the_density() -> None:
    log_density = np.log(np.array([[1.0, 0.25]]))
    shown = density_picture({"samples": np.zeros((1, 2)), "log_density": log_density})
    np.testing.assert_array_equal(shown, heat(np.array([[1.0, 0.5]])))
