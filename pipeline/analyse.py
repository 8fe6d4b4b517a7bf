"""Read one trained model as a dynamical system: tables, figures, metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from isocline.app.analysis import analyse, subject_of, write_analysis
from isocline.app.artifacts import build
from isocline.app.evaluation_stage import write_json
from isocline.dynamics.readings.settings import AnalysisSettings
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Analyse model ``item``; write its tables, pictures and metrics, and log them to the run."""
    assert item is not None
    settings: AnalysisSettings = build(params["evaluation"]["analysis"])
    sides = ("models", "students", "densities")
    section = next(params[side][item] for side in sides if side in params and item in params[side])
    subject = subject_of(Path("data/models") / item, section.get("sampler"), params["accelerator"])
    began = time.perf_counter()
    analysis = analyse(
        subject,
        settings,
        derive_seed(params["seed"], "analyse"),
        lambda name: print(f"analyse {item}: {name}", flush=True),
    )
    run.timing("analysis_seconds", time.perf_counter() - began)
    for path in write_analysis(analysis, Path("data/analyses") / item):
        run.artifact(path, "analysis")
    document = analysis.document()
    write_json(Path(f"metrics/analyse-{item}.json"), document)
    run.document(document)
    run.tag("isocline.teacher", item)
