"""Optimisers as dynamical systems on a small regression: loss, edge of stability, distance from their equations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from isocline.app.artifacts import build
from isocline.app.evaluation_stage import write_json
from isocline.app.optimisation_stage import optimisation_document, optimisation_tables, write_charts, write_tables
from isocline.dynamics.optimisation_study import OptimisationStudySettings, study_optimisation
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Study the optimisers; write the metrics, the tables and their charts."""
    settings: OptimisationStudySettings = build(params["evaluation"]["optimisation"])
    began = time.perf_counter()
    found = study_optimisation(
        settings,
        derive_seed(params["seed"], "study-optimisation"),
        progress=lambda line: print(f"optimisation: {line}", flush=True),
    )
    run.timing("study_seconds", time.perf_counter() - began)
    document = optimisation_document(found, settings)
    tables, directory = optimisation_tables(found), Path("data/optimisation")
    for path in (*write_tables(tables, directory), *write_charts(tables, directory)):
        run.artifact(path, "optimisation")
    write_json(Path("metrics/optimisation.json"), document)
    run.document(document)
