"""The chapter on dynamics: charts from tables, sentences from metrics, nothing of what was not read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from isocline.report.dynamics import chapter
from isocline.report.dynamics_charts import dynamics_charts
from isocline.report.pictures import png
from isocline.report.sources import Sources
from isocline.report.standalone import svg_file
from isocline.report.study import Study


def rows(**columns: list[float]) -> tuple[dict[str, str], ...]:
    return tuple(
        {name: str(value) for name, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    )


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "sd": 0.2, "se": 0.1, "n": 4}


FLOW = Study(
    "flow",
    {
        "decision": {"decision_time": estimate(0.6), "probe_agrees_half_way": estimate(0.9)},
        "geometry": {"planarity": estimate(0.995), "arc_over_chord": estimate(1.03)},
        "attractors": {"distinct": {"noise_0_7": 9, "noise_0_9": 1}, "memorisation_ratio": 0.65},
        "fixed_points": {"distinct": {"at_0_7": 6}, "attracting": {"at_0_7": 5}},
        "continuation": {"followed": 1.0, "splits_at": 0.83},
        "lyapunov": {"largest": estimate(-1.5)},
        "protocol": {"decision": "64 trajectories"},
    },
    {
        "decision": rows(t=[1, 0.5, 0], decided=[0, 0.5, 1], decided_low=[0, 0.4, 0.9], decided_high=[0.1, 0.6, 1]),
        "splitting": rows(noise=[0.7, 0.9], distinct=[9, 1], settled=[1, 1]),
        "lyapunov": rows(index=[1], exponent=[-1.5], exponent_se=[0.1]),
    },
    {"attractors": png(np.zeros((6, 8), dtype=np.uint8))},
)
MASKED = Study(
    "masked",
    {
        "commitment": {
            "commitment_time": estimate(0.48),
            "left_to_right": estimate(0.01),
            "frequent_first": estimate(-0.02),
            "law_commitment_time": estimate(0.54),
        },
        "depth": {
            "agreement_half_way": estimate(0.6),
            "loss_rise": {"block_1": estimate(2.4), "block_2": estimate(0.07)},
        },
    },
    {"commitment": rows(t=[1, 0], committed=[0, 1], committed_se=[0, 0.1], law_committed=[0.1, 1])},
)


def test_a_chart_is_drawn_of_every_table_that_has_a_curve_with_its_band() -> None:
    charts = dynamics_charts(FLOW)
    assert set(charts) == {"decision", "splitting"}  # one exponent is no curve
    assert [name for name, _ in charts["decision"].legend] == ["its guess stays from here on"]
    assert "0.500 (0.400 to 0.600)" in charts["decision"].narrow
    commitment = dynamics_charts(MASKED)["commitment"]
    assert ["dash" in mark for _, mark in commitment.legend] == [False, True]


def test_the_sentences_say_the_numbers_and_only_those_that_were_measured() -> None:
    found = chapter(Sources({}, chapters={"dynamics": {"flow": FLOW, "masked": MASKED}}))
    assert found is not None
    flow, masked = found.parts
    text = " ".join(flow.findings)
    for part in (
        "t = 0.600",
        "90 %",
        "99.5 %",
        "9.00 at 0.7",
        "1.00 at 0.9",
        "draw together",
        "5.00 attract",
        "at 0.830 of noise",
    ):
        assert part in text, part
    assert len(flow.findings) == 6
    assert "in the law: 0.540" in masked.findings[0]
    assert "block 2 is missed least (0.0700" in masked.findings[1]
    assert len(masked.findings) == 2
    (plate,) = flow.plates
    assert (plate.width, plate.height, plate.pixelated) == (8, 6, True)
    heads = [row.head for row in flow.tables[0].rows]
    assert "attractors: distinct noise 0.7" in heads
    assert not any("protocol" in head for head in heads)


def test_without_an_analysis_there_is_no_chapter() -> None:
    assert chapter(Sources({})) is None


def test_a_chart_of_its_own_is_a_whole_svg_with_title_legend_and_colours() -> None:
    data = svg_file(dynamics_charts(FLOW)["decision"])
    root = ET.fromstring(data)
    assert root.tag.endswith("svg")
    text = data.decode()
    assert "When the class is settled" in text
    assert "its guess stays from here on" in text
    used = set(re.findall(r"var\((--c\d)\)", text))
    assert used <= set(re.findall(r"(--c\d): #", text))
    assert data == svg_file(dynamics_charts(FLOW)["decision"])
    assert float(root.attrib["height"]) > 320


@pytest.mark.parametrize("columns", [{"t": [1.0], "decided": [0.0]}, {"t": [1, 0]}])
def test_a_table_without_a_curve_has_no_chart(columns: dict[str, list[float]]) -> None:
    assert dynamics_charts(Study("x", {}, {"decision": rows(**columns)})) == {}
