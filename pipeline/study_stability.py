"""Stiffness and stability of a trained field, and the evaluations that solvers need on it at equal quality."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from isocline.app.artifacts import build
from isocline.app.evaluation_stage import write_json
from isocline.app.stability_stage import study_stability, write_curve_along, write_stability
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Study model ``item``: write its metrics, its tables and its curve over the field's time."""
    assert item is not None
    settings = build(params["evaluation"]["stability"])
    began = time.perf_counter()
    found = study_stability(
        item, settings, derive_seed(params["seed"], "study-stability"), params["accelerator"],
        progress=lambda line: print(f"stability of {item}: {line}", flush=True),
    )  # fmt: skip
    run.timing("study_seconds", time.perf_counter() - began)
    document = found.document()
    write_stability(found, Path("data/stability") / item)
    write_curve_along(found.report, Path(f"plots/stability-{item}.csv"))
    write_json(Path(f"metrics/stability-{item}.json"), document)
    run.document(document)
