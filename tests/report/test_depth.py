"""The chapter of the depth study says what its documents say."""

from __future__ import annotations

from typing import Any

import numpy as np

from isocline.report.depth import chapter
from isocline.report.figures import count
from isocline.report.sources import Sources
from isocline.report.study import Study


def estimate(values: list[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1))
    return {"mean": float(np.mean(values)), "sd": sd, "se": sd / len(values) ** 0.5, "n": len(values), "values": values}


def document(name: str, left: list[float], right: list[float], layers: int, ratio: float, **more: Any) -> dict:
    both = {"parameters": estimate([1.0, 1.1]), "flops": estimate([1.0, 1.2])}
    return {
        "bits_per_char": {name: {"parameters": estimate(left), "flops": estimate(right)}},
        "flops_per_token": {name: {"parameters": 1e5 * ratio, "flops": 1e5}},
        "flops_ratio": {name: {"parameters": ratio, "flops": 1.04}},
        "depth": {name: {"parameters": 4, "flops": layers}},
        "parameters": {name: {"parameters": 270720, "flops": 200000}},
        **{key: {name: both} for key in ("evaluations", "lipschitz", "abscissa", "map_gain", "logit_sensitivity")},
        "float32_error": {name: {"parameters": estimate([1e-7, 2e-7]), "flops": estimate([1e-7, 2e-7])}},
        "protocol": {"steps": 150, "seeds": 3},
        **more,
    }


def growth(name: str) -> dict[str, Any]:
    heads = (f"{name}.parameters", f"{name}.flops")
    return {"growth": tuple({"layer": str(n), heads[0]: str(1.5**n), heads[1]: ""} for n in range(5))}


SEEDS = [2.30, 2.32, 2.25]


def sources() -> Sources:
    better, worse, alike = (
        [value + shift for value, shift in zip(SEEDS, shifts, strict=True)]
        for shifts in ((-0.1, -0.1, -0.1), (0.2, 0.21, 0.22), (-0.05, 0.06, 0.01))
    )
    pruning = {
        "implicit": {
            "parameters": {"iterations": 12, "kept": estimate([7, 8, 8]), "bits_per_char": estimate(worse)},
        }
    }
    studies = {
        "euler": Study("euler", document("euler", SEEDS, SEEDS, 4, 1.0), growth("euler")),
        "rk2": Study("rk2", document("rk2", better, worse, 2, 1.6), growth("rk2")),
        "implicit": Study("implicit", document("implicit", alike, alike, 1, 2.0, pruning=pruning)),
    }
    return Sources({}, chapters={"depth": studies})


def test_a_page_without_a_study_has_no_chapter() -> None:
    assert chapter(Sources({})) is None


def test_findings_name_what_is_better_and_worse_and_count_what_is_neither() -> None:
    found = chapter(sources())
    assert found is not None
    left, right = found.parts[0].findings
    assert left == "At equal parameters, better than Euler’s step: rk2 (−0.100); 1 within what seeds do."
    assert right == "At equal operations, worse: rk2 (+0.210); 1 within what seeds do."


def test_both_comparisons_stand_in_one_table_with_intervals() -> None:
    found = chapter(sources())
    (table,) = found.parts[0].tables
    rows = {row.head: row.cells for row in table.rows}
    assert len(table.columns) == len(rows["rk2"]) == 10
    assert [cell.text for cell in rows["rk2"][:3]] == ["4", count(270720), "1.60×"]
    assert rows["rk2"][5].text == "2"
    assert rows["rk2"][4].better
    assert rows["rk2"][9].apart
    assert not rows["rk2"][9].better
    assert rows["euler"][4].text == "–"
    assert not rows["implicit"][4].apart


def test_charts_show_costs_and_growth() -> None:
    trade, grown = chapter(sources()).parts[0].charts
    assert trade.narrow.count('class="bar"') == 5  # one of euler, two of the others
    assert "rk2 5.06 after 4" in grown.narrow
    assert [name for name, _ in grown.legend] == ["euler", "rk2"]


def test_pruning_has_a_part_of_its_own() -> None:
    *_, pruned = chapter(sources()).parts
    ((row,),) = [table.rows for table in pruned.tables]
    assert [cell.text for cell in row.cells[:2]] == ["12", "7.67"]
    assert row.head == "implicit, equal parameters"
