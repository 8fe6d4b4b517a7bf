"""The language section: distances to the autoregressive model, the frontier, how text was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isocline.report import read_sources, tables
from isocline.report.language import distance, headline, protocol_facts, text_charts, text_tables
from isocline.report.page import model_colours
from isocline.report.sources import Model, Reading, Sources

Project = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def sources(project: Project) -> Sources:
    return read_sources(*project)


def model(name: str, nats: dict[str, list[float]], **metrics: Any) -> Model:
    arrays = {key: np.array(values) for key, values in nats.items()}
    return Model(name, "text", None, {}, metrics=metrics, nats=arrays)


def bits(value: float, kind: str = "exact", **more: Any) -> dict[str, Any]:
    return {"mean": value, "sd": 1.0, "se": 0.1, "n": 4, "kind": kind, **more}


def test_the_distance_is_the_ratio_of_sums_over_the_sequences_that_both_scored() -> None:
    base = model("ar", {"own": [10.0, 20.0, 30.0, 40.0]}, bits_per_char=bits(1.0))
    tight = bits(2.0, likelihood="left_to_right")
    other = model("masked", {"own": [0.0] * 4, "left_to_right": [math.nan, 22.0, math.nan, 46.0]},
                  bits_per_char=bits(2.0, "bound"), bits_per_char_tightest=tight)  # fmt: skip
    found = distance(other, base)
    assert found is not None
    assert found.mean == pytest.approx(68 / 60 - 1)
    assert found.n == 2
    residuals = np.array([22 - 68 / 60 * 20, 46 - 68 / 60 * 40]) / 30
    assert found.se == pytest.approx(residuals.std(ddof=1) / math.sqrt(2))


def test_without_sequences_the_distance_comes_from_the_means_and_without_a_likelihood_there_is_none() -> None:
    base = model("ar", {}, bits_per_char=bits(1.0))
    found = distance(model("masked", {}, bits_per_char=bits(1.5, "bound")), base)
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.se == pytest.approx(math.hypot(0.1, 1.5 * 0.1))
    assert distance(model("simplex", {}), base) is None


def test_models_without_a_likelihood_show_dashes(sources: Sources) -> None:
    silent = replace(sources.of("text")[1], name="simplex", nats={}, metrics={})
    rows = {row.head: row for row in text_tables([*sources.of("text"), silent], {})[0].rows}
    assert [rows["simplex"].cells[i].text for i in (0, 1, 5, 6, 7)] == ["–"] * 5
    assert rows["ar"].cells[1].text == "–"


def test_the_table_names_the_tightest_likelihood_and_what_training_took(sources: Sources) -> None:
    table = text_tables(sources.of("text"), model_colours(sources))[0]
    assert table.columns[1] == "distance to ar"
    rows = {row.head: row for row in table.rows}
    masked = rows["masked"].cells
    assert masked[0].small == "se 0.011 bound"
    assert masked[6].value is None
    assert masked[6].text.startswith("−")
    assert masked[7].text.startswith("+")
    assert float(masked[6].text.replace("−", "-")) == pytest.approx(-3 / (150 * math.log(2)), rel=0.01)
    assert "left to right (exact)" in masked[1].small
    assert masked[1].best
    assert [rows["dfm"].cells[i].text for i in (0, 1, 5)] == ["–"] * 3
    assert table.columns[8] == "flow bound"
    assert rows["dfm"].cells[8].small == "se 0.011 flow bound"
    assert rows["masked"].cells[8].text == "–"
    weights = 96 * 96 + 96
    assert masked[2].value == pytest.approx(6e-12 * weights * 3000 * 32 * 48)
    assert masked[3].run == "train@masked"
    assert (table.columns[4], masked[4].text) == ("parameters", "9\u202f312")
    assert rows["sdtt"].cells[3].run == "distill@sdtt"
    assert rows["masked"].note == "MaskedDiffusion"


def test_large_errors_are_written_in_full() -> None:
    assert [tables.error(value) for value in (0.0123, 2.345, 63.4, 99.7, 257.4)] == [
        "0.012",
        "2.3",
        "63",
        "99.7",
        "257",
    ]
    assert tables.likelihood_cell(Reading(841.0, se=257.4, kind="bound")).small == "se 257 bound"


def test_the_frontier_shows_every_model_real_text_and_nfe_along_the_curves(sources: Sources) -> None:
    models = sources.of("text")
    chart = text_charts(models, model_colours(sources))["lead"][0]
    assert [name for name, _ in chart.legend] == ["ar", "masked", "sdtt", "dfm", "held-out text"]
    for note in ("4", "8", "16", "32", "48", "real"):
        assert f">{note}</text>" in str(chart.narrow)
    table = next(t for t in text_tables(models, {}) if t.caption.startswith("Frontier"))
    assert table.columns == ("4", "8", "16", "32", "48")
    rows = {row.head: row for row in table.rows}
    assert "entropy 3.09" in rows["masked"].cells[0].small
    assert rows["masked"].note == "teacher, Confidence (SpreadOrder)"
    assert rows["sdtt"].note.endswith("Confidence (SpreadOrder)")
    assert rows["ar"].cells[0].text == "–"
    assert rows["held-out text"].reference
    assert not any(cell.best for row in table.rows for cell in row.cells)


def test_the_texts_are_described_at_the_most_evaluations_with_their_speed(sources: Sources) -> None:
    table = next(t for t in text_tables(sources.of("text"), {}) if t.caption == "The texts themselves")
    assert table.columns == ("NFE", "self-BLEU-3", "tokens/s")
    cells = {row.head: row.cells for row in table.rows}
    assert [cell.text for cell in cells["masked"]] == ["32", "0.210", "–"]
    assert cells["masked"][0].small == "28.5 spent"
    assert (cells["ar"][2].run, cells["ar"][2].timing) == ("evaluate-text@ar", "tokens_per_second_nfe_48")


def test_the_headline_names_the_nearest_model_and_by_which_likelihood(sources: Sources) -> None:
    sentence = headline(sources.of("text"))
    assert sentence.startswith("Held-out text: ar needs 1.66 bits per character; closest is masked, +38.4 % ± ")
    assert sentence.endswith("exact by left to right.")
    assert headline([]) == ""


def test_how_text_was_measured_is_said(sources: Sources) -> None:
    card = {**sources.cards["text"], "packing": "one stream, no end-of-text token", "characters_per_token": 3.26,
            "tokenizer": {"_target_": "isocline.datasets.tokenizer.BytePairTokenizer"}}  # fmt: skip
    facts = dict(protocol_facts(sources.of("text"), card))
    assert facts["Tokenizer"].startswith("BytePairTokenizer, 1\u202f025 tokens with the mask, 3.26 characters")
    assert facts["Sequence length"] == "48 tokens"
    assert "no token" in facts["End of text"]
    assert facts["Scored"] == "12 test sequences, evenly spaced, 32 strata of t each; 6 of them by the chain rule"
    assert facts["Generated"] == "64 sequences at each NFE and each of 3 sampling seeds"
    assert "none is left undecided" in facts["Last step"]
    assert protocol_facts([], {}) == []
