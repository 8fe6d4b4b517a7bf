"""The chapter on optimisers, from the tables and the document that the stage's own code writes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from isocline.app.evaluation_stage import write_json
from isocline.app.optimisation_stage import optimisation_document, optimisation_tables, write_tables
from isocline.dynamics.flow_distance import FlowDistanceSettings
from isocline.dynamics.optimisation_study import Edge, OptimisationStudySettings, study_optimisation
from isocline.dynamics.small_regression import RegressionSettings
from isocline.optimization.adaptive import AdaptiveGradientFlow
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall
from isocline.report.optimisation import chapter
from isocline.report.sources import read_sources


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("optimisation")
    settings = OptimisationStudySettings(
        {"gradient_flow": GradientFlow, "heavy_ball": HeavyBall},
        edges={
            "gradient_flow": Edge(GradientFlow, [0.12]),
            "adaptive": Edge(partial(AdaptiveGradientFlow), limit=GradientFlow),
        },
        regions={"gradient_flow": GradientFlow, "heavy_ball": partial(HeavyBall, momentum=0.5)},
        learning_rates=[0.01, 0.1],
        evaluations=20,
        seeds=2,
        points=4,
        edge_steps=20,
        edge_every=10,
        distance=FlowDistanceSettings(steps=(10, 20), span=0.5, ball_span=0.5),
        regression=RegressionSettings(width=8, degree=2, points=10),
    )
    found = study_optimisation(settings, 0)
    write_tables(optimisation_tables(found), root / "data/optimisation")
    (root / "metrics").mkdir()
    write_json(root / "metrics/optimisation.json", optimisation_document(found, settings))
    return root


def test_the_chapter_shows_every_method_and_says_what_the_numbers_say(root: Path) -> None:
    found = chapter(read_sources(root, {}))
    assert found is not None
    titles = [chart.title for part in found.parts for chart in part.charts]
    assert len(titles) == 5
    losses, edge, equations = found.parts
    assert [row.head for row in losses.tables[0].rows] == ["gradient flow", "heavy ball"]
    assert losses.findings[0].startswith("At equal gradient evaluations heavy ball goes lowest")
    assert sum(row.cells[0].best for row in losses.tables[0].rows) == 1
    limits = {row.head: row.cells[0].text for row in equations.tables[0].rows}
    assert limits["gradient flow"] == "2.00"
    assert limits["heavy ball"] == "3.00"
    assert re.search(r"products ηλ of the loss itself are [\d.]+", equations.findings[0])
    assert {row.head for row in edge.tables[0].rows} == {"gradient flow 0.12", "adaptive"}
    control = next(chart for chart in edge.charts if chart.title == "Step sizes under control")
    assert [label for label, _ in control.legend] == ["adaptive", "2/λ under adaptive"]


def test_there_is_no_chapter_without_the_study(tmp_path: Path) -> None:
    assert chapter(read_sources(tmp_path, {})) is None
