"""The study of samplers on the page."""

from __future__ import annotations

from isocline.report.solvers import solver_studies


def estimate(mean: float, se: float = 1.0) -> dict:
    return {"mean": mean, "sd": 3 * se, "se": se, "n": 9, "values": [mean] * 9}


DOCUMENT = {
    "frechet": {
        "ddim": {"5": estimate(40.0), "10": estimate(30.0)},
        "heun": {"10": estimate(28.0)},
        "ddim_optimised": {"5": estimate(35.0), "10": estimate(29.0)},
    },
    "rmse": {"ddim": {"5": estimate(0.2, 0.01), "10": estimate(0.1, 0.01)}},
    "best": {"5": {"free": "ddim", "all": "ddim_optimised"}, "10": {"free": "heun", "all": "heun"}},
    "excess": {"5": {"free": {"mean": 0.6, "low": 0.5, "high": 0.7, "se": 0.05, "n": 9}}},
    "reference": {"frechet": estimate(25.0)},
    "floor": {"frechet": estimate(3.0)},
    "protocol": {"made": ["ddim_optimised"]},
}


def test_a_model_that_was_not_studied_is_left_out() -> None:
    assert [study.model for study in solver_studies({"flow": DOCUMENT, "vp": {}})] == ["flow"]


def test_the_chart_has_every_sampler_with_what_was_made_for_the_model_dashed_and_the_flow_as_a_line() -> None:
    chart = solver_studies({"flow": DOCUMENT})[0].chart
    assert [name for name, _ in chart.legend] == ["ddim", "heun", "ddim, optimised grid"]
    assert ["dash" in mark for _, mark in chart.legend] == [False, False, True]
    assert "the accurate flow" in chart.wide
    assert "ddim: 5 → 40.0 (39.0 to 41.0)" in chart.wide


def test_the_best_are_named_with_errors_and_the_excess_over_the_flow() -> None:
    best, frechet, rmse = solver_studies({"flow": DOCUMENT})[0].tables
    assert [(row.head, [cell.text for cell in row.cells]) for row in best.rows] == [
        ("training-free", ["ddim", "heun"]),
        ("over the accurate flow", ["+60.0 %", "–"]),
        ("any", ["ddim, optimised grid", "heun"]),
        ("over the accurate flow", ["–", "–"]),
    ]
    assert best.rows[0].cells[0].small == "40.0 ± 1.00"
    assert [row.head for row in frechet.rows if row.reference] == ["the accurate flow", "real training images"]
    assert [cell.best for cell in frechet.rows[1].cells] == [False, True]
    assert [cell.text for cell in rmse.rows[0].cells] == ["0.200", "0.100"]
