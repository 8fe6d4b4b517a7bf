"""Likelihood over epochs: a curve for every kind of model that was trained with several budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from isocline.report.epochs import epochs_chart, epochs_of
from isocline.report.sources import Model

CARD = {"splits": {"train": {"rows": 1600}}}


def model(name: str, objective: str, steps: int, bits: float, teacher: str | None = None, **metrics: Any) -> Model:
    settings = {"objective": {"_target_": f"x.{objective}"}, "trainer": {"steps": steps, "batch_size": 32}}
    value = {"mean": bits, "sd": 0.1, "se": 0.01, "n": 9, "kind": "exact"}
    return Model(name, "text", teacher, settings, metrics={"bits_per_char": value, **metrics})


def test_epochs_are_rows_seen_over_rows_there_are() -> None:
    assert epochs_of(model("ar", "AR", 100, 1.5), CARD) == pytest.approx(2.0)
    assert epochs_of(model("ar", "AR", 100, 1.5), {}) is None


def test_models_of_one_kind_make_a_curve_in_the_order_of_their_epochs() -> None:
    tight = {"bits_per_char_tightest": {"mean": 1.7, "sd": 0.1, "se": 0.01, "n": 9}}
    models = [
        model("masked", "M", 200, 1.8, **tight),
        model("masked_long", "M", 800, 1.6),
        model("masked_short", "M", 50, 2.1),
        model("uniform", "U", 50, 2.4),
        model("student", "M", 400, 9.0, teacher="masked"),
    ]
    chart = epochs_chart(models, CARD, {"masked": 2})
    assert chart is not None
    assert [name for name, _ in chart.legend] == ["masked"]
    for tip in ("masked: 1 → 2.10", "masked: 4 → 1.70", "masked: 16 → 1.60"):
        assert tip in str(chart.narrow)
    assert "9.0" not in str(chart.narrow)


def test_networks_of_other_sizes_share_no_curve() -> None:
    small, wide = model("ar", "AR", 100, 1.5), model("ar_wide", "AR", 200, 1.4)
    assert epochs_chart([small, wide], CARD, {}) is not None
    wide = replace(wide, settings={**wide.settings, "network": {"width": 256}})
    assert epochs_chart([small, wide], CARD, {}) is None


def test_one_budget_a_kind_is_no_curve() -> None:
    assert epochs_chart([model("ar", "AR", 100, 1.5), model("masked", "M", 100, 1.8)], CARD, {}) is None
