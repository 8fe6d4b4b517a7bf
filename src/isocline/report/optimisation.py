"""The chapter on optimisers as integrators: losses, edge of stability, stability regions, distance from the flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from isocline.report import tables
from isocline.report.chapter import Chapter, Part
from isocline.report.charts import Chart
from isocline.report.figures import number
from isocline.report.optimisation_charts import optimisation_charts, spoken
from isocline.report.sources import Reading, Sources
from isocline.report.study import Study

__all__ = ["chapter"]

Charts = Mapping[str, Chart]


def chapter(sources: Sources) -> Chapter | None:
    """The chapter, or None where the study has not run."""
    study = sources.found("optimisation").get("optimisation")
    if study is None:
        return None
    charts = optimisation_charts(study)
    parts = (_comparison(study, charts), _edge(study, charts), _equations(study, charts))
    return Chapter(
        anchor="optimisation",
        nav="Optimisation",
        title="Optimisers as integrators",
        lede="A step of an optimiser is a step of an integrator: of gradient flow, or of a ball with friction. All of "
        "these run through the same solver core as the models’ fields, here on a small regression by full batches.",
        parts=tuple(part for part in parts if part.charts or part.tables),
    )


def _comparison(study: Study, charts: Charts) -> Part:
    found = _readings(study.document, "loss_decades")
    steps = (study.document.get("protocol") or {}).get("best_step") or {}
    rows = [
        tables.Row(spoken(name), (tables.cell(reading), _cell(_number(steps.get(name)))))
        for name, reading in found.items()
    ]
    marked = tuple(tables.mark_best(rows, {0: True})) if rows else ()
    table = tables.Table("Loss at the end of the budget", ("log₁₀ of the loss", "best step"), marked, _LOSSES)
    sentences = []
    if found:
        best = min(found, key=lambda name: found[name].mean)
        sentences.append(
            f"At equal gradient evaluations {spoken(best)} goes lowest, to a loss of {number(10 ** found[best].mean)}."
        )
    return Part("Equal numbers of gradients", tuple(sentences), _named(charts, "losses"), _full(table))


_LOSSES = "Each at its best step size of one sweep; a method of several gradients a step makes fewer steps. Mean ± sd."


def _edge(study: Study, charts: Charts) -> Part:
    edges = study.document.get("sharpness_over_limit") or {}
    rows = [
        tables.Row(spoken(name), tuple(_cell(_number(values.get(key))) for key in ("start", "largest", "hovering")))
        for name, values in edges.items()
    ]
    table = tables.Table("λ_max over its limit", ("at the start", "largest", "mean at the edge"), tuple(rows), _EDGE)
    hover = {name: value for name, values in edges.items() if (value := _number(values.get("hovering"))) is not None}
    sentences = [
        f"{spoken(name).capitalize()} reaches its edge of stability and stays at {number(value)} times the limit."
        for name, value in hover.items()
    ]
    return Part("The edge of stability", tuple(sentences), _named(charts, "sharpness", "step_sizes"), _full(table))


_EDGE = "The largest eigenvalue of the Hessian by Lanczos; a dash where the limit was never reached."


def _equations(study: Study, charts: Charts) -> Part:
    limits, orders = (_readings(study.document, key) for key in ("stability_limit", "order"))
    names = dict.fromkeys([*limits, *orders])
    rows = [tables.Row(spoken(name), (tables.cell(limits.get(name)), tables.cell(orders.get(name)))) for name in names]
    table = tables.Table("Methods", ("stable up to ηλ", "measured order"), tuple(rows))
    spectrum = [value for value in study.column("eigenvalues", "product") if math.isfinite(value)]
    sentences = (
        [
            f"At the end of gradient descent’s best run the largest products ηλ of the loss itself are "
            f"{', '.join(number(value) for value in spectrum[:3])}."
        ]
        if spectrum
        else []
    )
    return Part(
        "Discrete steps and their equations", tuple(sentences), _named(charts, "regions", "distances"), _full(table)
    )


def _readings(document: Mapping[str, Any], key: str) -> dict[str, Reading]:
    raw = document.get(key) or {}
    return {name: reading for name, node in raw.items() if (reading := Reading.parse(node)) is not None}


def _number(raw: Any) -> float | None:
    reading = Reading.parse(raw)
    return None if reading is None else reading.mean


def _cell(value: float | None) -> tables.Cell:
    return tables.Cell() if value is None else tables.Cell(number(value), value=value)


def _named(charts: Charts, *names: str) -> tuple[Chart, ...]:
    return tuple(charts[name] for name in names if name in charts)


def _full(table: tables.Table) -> tuple[tables.Table, ...]:
    return () if table.empty else (table,)
