"""The chapter on optimisers as integrators: losses, edge of stability, stability regions, distance from the flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from isocline.report import tables
from isocline.report.chapter import Chapter, Part
from isocline.report.charts import Chart, legend
from isocline.report.figures import MARKERS, NARROW, Axis, Rule, Series, line_chart, number
from isocline.report.sources import Reading, Sources
from isocline.report.study import Study

__all__ = ["chapter"]


def chapter(sources: Sources) -> Chapter | None:
    """The chapter, or None where the study has not run."""
    study = sources.found("optimisation").get("optimisation")
    if study is None:
        return None
    parts = (_comparison(study), _edge(study), _equations(study))
    return Chapter(
        anchor="optimisation",
        nav="Optimisation",
        title="Optimisers as integrators",
        lede="A step of an optimiser is a step of an integrator: of gradient flow, or of a ball with friction. All of "
        "these run through the same solver core as the models’ fields, here on a small regression by full batches.",
        parts=tuple(part for part in parts if part.charts or part.tables),
    )


def _comparison(study: Study) -> Part:
    found = _readings(study.document, "loss_decades")
    chart = _chart(study, "losses", "Loss over gradient evaluations", "gradient evaluations", "log₁₀ of the loss")
    steps = (study.document.get("protocol") or {}).get("best_step") or {}
    rows = [
        tables.Row(_spoken(name), (tables.cell(reading), _cell(_number(steps.get(name)))))
        for name, reading in found.items()
    ]
    marked = tuple(tables.mark_best(rows, {0: True})) if rows else ()
    table = tables.Table("Loss at the end of the budget", ("log₁₀ of the loss", "best step"), marked, _LOSSES)
    sentences = []
    if found:
        best = min(found, key=lambda name: found[name].mean)
        sentences.append(
            f"At equal gradient evaluations {_spoken(best)} goes lowest, to a loss of {number(10 ** found[best].mean)}."
        )
    return Part("Equal numbers of gradients", tuple(sentences), _some(chart), _full(table))


_LOSSES = "Each at its best step size of one sweep; a method of several gradients a step makes fewer steps. Mean ± sd."


def _edge(study: Study) -> Part:
    edges = study.document.get("sharpness_over_limit") or {}
    ratios = _chart_of(
        "Sharpness over what the step can bear",
        [
            (_spoken(name), study.column("edges", "step"), _ratio(study, name))
            for name in edges
            if study.column("edges", f"{name}_limit")
        ],
        Axis("step"),
        Axis("λ_max over its limit", "log"),
        Rule("edge of stability", 1.0),
        "One is the edge of stability: 2/η for gradient descent, 2(1 + β)/η for the heavy ball.",
    )
    sizes = _chart_of(
        "Step sizes under control",
        [
            curve
            for name in edges
            if name in ("adaptive", "pid")
            for curve in (
                (_spoken(name), study.column("edges", "step"), study.column("edges", f"{name}_step_size")),
                (f"2/λ under {_spoken(name)}", study.column("edges", "step"), _bound(study, name)),
            )
        ],
        Axis("step"),
        Axis("step size η", "log"),
        None,
        "The controller of the solver core holds the local error; where the flow is stiff it finds 2/λ by itself.",
    )
    rows = [
        tables.Row(_spoken(name), tuple(_cell(_number(values.get(key))) for key in ("start", "largest", "hovering")))
        for name, values in edges.items()
    ]
    table = tables.Table("λ_max over its limit", ("at the start", "largest", "mean at the edge"), tuple(rows), _EDGE)
    hover = {name: value for name, values in edges.items() if (value := _number(values.get("hovering"))) is not None}
    sentences = [
        f"{_spoken(name).capitalize()} reaches its edge of stability and stays at {number(value)} times the limit."
        for name, value in hover.items()
    ]
    return Part("The edge of stability", tuple(sentences), _some(ratios, sizes), _full(table))


_EDGE = "The largest eigenvalue of the Hessian by Lanczos; a dash where the limit was never reached."


def _equations(study: Study) -> Part:
    products = study.column("amplification", "product")
    regions = _chart_of(
        "Amplification on a quadratic",
        [(_spoken(name), products, study.column("amplification", name)) for name in _columns(study, "amplification")],
        Axis("step size times curvature, ηλ"),
        Axis("factor of an error per step"),
        Rule("stable below", 1.0),
        "Exact gradient flow: exp(−ηλ). Only implicit and exponential methods are stable for any product.",
    )
    distances = _chart_of(
        "Distance from the equation of motion",
        [
            (_spoken(name), study.column("distances", "steps"), study.column("distances", name))
            for name in _columns(study, "distances")
        ],
        Axis("steps over the same time", "log"),
        Axis("distance over the way gone", "log"),
        None,
        "Gradient flow for the one-step methods, the ball with friction for heavy ball and leapfrog.",
    )
    limits, orders = (_readings(study.document, key) for key in ("stability_limit", "order"))
    names = dict.fromkeys([*limits, *orders])
    rows = [tables.Row(_spoken(name), (tables.cell(limits.get(name)), tables.cell(orders.get(name)))) for name in names]
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
    return Part("Discrete steps and their equations", tuple(sentences), _some(regions, distances), _full(table))


def _columns(study: Study, table: str) -> list[str]:
    rows = study.tables.get(table, ())
    return list(rows[0])[1:] if rows else []


def _ratio(study: Study, name: str) -> tuple[float, ...]:
    top, limit = (study.column("edges", f"{name}_{what}") for what in ("sharpness", "limit"))
    return tuple(a / b for a, b in zip(top, limit, strict=True))


def _bound(study: Study, name: str) -> tuple[float, ...]:
    """The largest stable step: η times the limit of the curvature, over the curvature."""
    sizes = study.column("edges", f"{name}_step_size")
    return tuple(size / ratio for size, ratio in zip(sizes, _ratio(study, name), strict=True))


def _chart(study: Study, table: str, title: str, x: str, y: str) -> Chart | None:
    names = _columns(study, table)
    first = next(iter(study.tables[table][0])) if names else ""
    curves = [(_spoken(name), study.column(table, first), study.column(table, name)) for name in names]
    return _chart_of(title, curves, Axis(x), Axis(y), None, "")


def _chart_of(
    title: str,
    curves: Sequence[tuple[str, tuple[float, ...], tuple[float, ...]]],
    x: Axis,
    y: Axis,
    rule: Rule | None,
    note: str,
) -> Chart | None:
    series = [
        # The palette has eight colours; a second round is dashed.
        Series(label, at, values, colour=index, marker=_marker(index, at), dashed=index >= 8)
        for index, (label, at, values) in enumerate(curves)
        if at and any(math.isfinite(value) for value in values)
    ]
    if not series:
        return None
    said = f"{title}. " + "; ".join(f"{one.label} ends at {number(_last(one.y))}" for one in series) + "."
    return Chart(title, line_chart(series, x, y, description=said, size=NARROW, rule=rule), None, legend(series), note)


def _marker(index: int, at: Sequence[float]) -> Any:
    return MARKERS[index % len(MARKERS)] if len(at) <= 8 else "none"


def _last(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if math.isfinite(value)), 0.0)


def _readings(document: Mapping[str, Any], key: str) -> dict[str, Reading]:
    raw = document.get(key) or {}
    return {name: reading for name, node in raw.items() if (reading := Reading.parse(node)) is not None}


def _number(raw: Any) -> float | None:
    reading = Reading.parse(raw)
    return None if reading is None else reading.mean


def _cell(value: float | None) -> tables.Cell:
    return tables.Cell() if value is None else tables.Cell(number(value), value=value)


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("pid", "PID").replace("imex", "IMEX")


def _some(*charts: Chart | None) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _full(table: tables.Table) -> tuple[tables.Table, ...]:
    return () if table.empty else (table,)
