"""Chapters: the studies that params.yaml names are found, and a chapter is laid out whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isocline.report import page, pictures
from isocline.report.chapter import Chapter, Part, Plate
from isocline.report.sources import read_sources
from isocline.report.tables import Cell, Row, Table

PARAMS = {"matrix": {"stability": {"flow": "models", "vp": "models"}}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project where flow has been studied, vp has not, and an old study of edm lies about."""
    (tmp_path / "metrics").mkdir()
    for name in ("flow", "edm"):
        (tmp_path / f"metrics/stability-{name}.json").write_text(json.dumps({"abscissa": 2.5}))
    (tmp_path / "metrics/optimisation.json").write_text(json.dumps({"sharpness": 4}))
    folder = tmp_path / "data/stability/flow"
    folder.mkdir(parents=True)
    (folder / "spectrum.csv").write_text("solver,t,real\neuler,0.5,-1\nrk4,1,\n")
    (folder / "region.png").write_bytes(pictures.png(np.zeros((4, 6), dtype=np.uint8)))
    return tmp_path


def test_studies_that_params_name_and_that_have_run_are_found(project: Path) -> None:
    sources = read_sources(project, PARAMS)
    assert list(sources.found("stability")) == ["flow"]
    study = sources.found("stability")["flow"]
    assert study.document == {"abscissa": 2.5}
    assert [row["solver"] for row in study.tables["spectrum"]] == ["euler", "rk4"]
    assert study.column("spectrum", "t") == (0.5, 1.0)
    assert np.isnan(study.column("spectrum", "real")[1])
    assert list(study.pictures) == ["region"]
    assert sources.found("optimisation")["optimisation"].document == {"sharpness": 4}
    assert not sources.found("depth")
    assert not sources.problems


def test_an_unreadable_study_is_named_on_the_page(project: Path) -> None:
    (project / "metrics/stability-flow.json").write_text("{")
    sources = read_sources(project, PARAMS)
    assert not sources.found("stability")
    assert "metrics/stability-flow.json could not be read" in sources.problems[0]


def test_a_chapter_is_laid_out_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = project / "data/stability/flow/region.png"
    plate = Plate("region", sheet.read_bytes(), "a black region", 6, 4, "below", pixelated=True)
    table = Table("Rows", ("abscissa",), (Row("flow", (Cell("2.5"),)),), head="field")
    chapter = Chapter(
        "stability",
        "Stability",
        "Stiff or not",
        "About it.",
        (Part("flow", ("Not < stiff.",), (), (table,), (plate,)),),
    )
    monkeypatch.setattr(page, "CHAPTERS", (lambda sources: chapter, lambda sources: None))
    html = page.render_page(read_sources(project, PARAMS))
    for piece in (
        'href="#stability"',
        '<section id="stability">',
        "Not &lt; stiff.",
        ">field</th>",
        "2.5",
        'alt="a black region"',
        "below",
    ):
        assert piece in html
