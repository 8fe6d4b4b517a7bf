"""What the study of optimisers writes: its metrics document and its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isocline.app.evaluation_stage import write_table
from isocline.datasets.storage import write_bytes
from isocline.dynamics.edge_of_stability import SharpnessTrace
from isocline.dynamics.optimisation_study import OptimisationStudy, OptimisationStudySettings
from isocline.report.optimisation_charts import optimisation_charts
from isocline.report.standalone import svg_file
from isocline.report.study import Study

__all__ = ["optimisation_document", "optimisation_tables", "write_charts", "write_tables"]

Columns = Mapping[str, Sequence[float]]


def optimisation_document(found: OptimisationStudy, settings: OptimisationStudySettings) -> dict[str, Any]:
    """Return what ``metrics/optimisation.json`` holds.

    Args:
        found: of the study.
        settings: of the study.
    """
    return {
        "loss_decades": {name: best.decades.as_dict() for name, best in found.best.items()},
        "sharpness_over_limit": {name: _edge(trace) for name, trace in found.edges.items()},
        "order": dict(found.distances.orders),
        "stability_limit": dict(found.limits),
        "protocol": {
            "loss": f"log10 of the mean square error after {settings.evaluations} gradient evaluations, full batch, at "
            f"the best of {len(settings.learning_rates)} step sizes; over {settings.seeds} starts",
            "best_step": {name: best.lr for name, best in found.best.items()},
            "sharpness_over_limit": "largest eigenvalue of the Hessian over what the step size can bear: at the start, "
            "the largest, and its mean after it was first reached",
            "descent_lr": found.descent_lr,
            "regression": str(settings.regression),
        },
    }


def _edge(trace: SharpnessTrace) -> dict[str, float]:
    hovering = trace.hovering()
    measured = {"start": trace.ratios[0], "largest": max(trace.ratios)}
    return measured if hovering is None else {**measured, "hovering": hovering}


def optimisation_tables(found: OptimisationStudy) -> dict[str, Columns]:
    """Return the tables by name: columns of one length each.

    ``losses``: log10 of the loss over gradient evaluations; ``edges``: sharpness, limit and step size over steps, by
    run; ``distances``: from the equations of motion by number of steps; ``amplification`` over ``η λ``;
    ``eigenvalues`` of the Hessian, and ``η λ``.
    """
    steps = {f"{name}": trace.steps for name, trace in found.edges.items()}
    edges: dict[str, Sequence[float]] = {"step": next(iter(steps.values()), ())}
    for name, trace in found.edges.items():
        edges[f"{name}_sharpness"], edges[f"{name}_limit"] = trace.sharpness, trace.limits
        edges[f"{name}_step_size"], edges[f"{name}_loss"] = trace.step_sizes, trace.losses
    finite = {name: tuple(_blank(gap) for gap in gaps) for name, gaps in found.distances.distances.items()}
    values = found.eigenvalues
    return {
        "losses": {"evaluations": found.evaluations, **{name: best.curve for name, best in found.best.items()}},
        "edges": edges,
        "distances": {"steps": found.distances.steps, **finite},
        "amplification": {"product": found.products, **found.amplifications},
        "eigenvalues": {"eigenvalue": values, "product": [found.descent_lr * value for value in values]},
    }


def _blank(value: float) -> float:
    return value if value < 1e6 else math.nan


def write_tables(tables: Mapping[str, Columns], directory: Path) -> list[Path]:
    """Write each table that has rows as a CSV file; return the files."""
    written = []
    for name, columns in tables.items():
        if rows := _rows(columns):
            written.append(directory / f"{name}.csv")
            write_table(written[-1], rows)
    return written


def write_charts(tables: Mapping[str, Columns], directory: Path) -> list[Path]:
    """Draw each chart whose tables have rows as an SVG file; return the files."""
    rows = {name: _rows(columns) for name, columns in tables.items()}
    texts = {
        name: tuple({column: f"{value:.9g}" for column, value in row.items()} for row in found)
        for name, found in rows.items()
    }
    written = []
    for name, chart in optimisation_charts(Study("optimisation", tables=texts)).items():
        written.append(directory / f"{name}.svg")
        write_bytes(written[-1], svg_file(chart))
    return written


def _rows(columns: Columns) -> list[dict[str, float]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
