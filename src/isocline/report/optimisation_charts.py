"""The charts of the study of optimisers, drawn from its tables: on the page and as files of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from isocline.report.charts import Chart, legend
from isocline.report.figures import MARKERS, NARROW, Axis, Rule, Series, line_chart, number
from isocline.report.study import Study

__all__ = ["optimisation_charts", "spoken"]

Curve = tuple[str, tuple[float, ...], tuple[float, ...]]


def optimisation_charts(study: Study) -> dict[str, Chart]:
    """Return the charts by name, without those whose tables are missing.

    ``losses`` over gradient evaluations, ``sharpness`` over its limit, ``step_sizes`` under control, ``regions`` of
    stability, ``distances`` from the equations of motion.
    """
    found = {
        "losses": _losses(study),
        "sharpness": _sharpness(study),
        "step_sizes": _step_sizes(study),
        "regions": _regions(study),
        "distances": _distances(study),
    }
    return {name: chart for name, chart in found.items() if chart is not None}


def spoken(name: str) -> str:
    """An optimiser's name as it is said."""
    return name.replace("_", " ").replace("pid", "PID").replace("imex", "IMEX")


def _losses(study: Study) -> Chart | None:
    return _chart(
        "Loss over gradient evaluations",
        _curves(study, "losses", "evaluations"),
        Axis("gradient evaluations"),
        Axis("log₁₀ of the loss"),
    )


def _sharpness(study: Study) -> Chart | None:
    return _chart(
        "Sharpness over what the step can bear",
        [(spoken(name), study.column("edges", "step"), _ratio(study, name)) for name in _runs(study)],
        Axis("step"),
        Axis("λ_max over its limit", "log"),
        Rule("edge of stability", 1.0),
        "One is the edge of stability: 2/η for gradient descent, 2(1 + β)/η for the heavy ball.",
    )


def _step_sizes(study: Study) -> Chart | None:
    steps = study.column("edges", "step")
    return _chart(
        "Step sizes under control",
        [
            curve
            for name in _runs(study)
            if name in ("adaptive", "pid")
            for curve in (
                (spoken(name), steps, study.column("edges", f"{name}_step_size")),
                (f"2/λ under {spoken(name)}", steps, _bound(study, name)),
            )
        ],
        Axis("step"),
        Axis("step size η", "log"),
        None,
        "The controller of the solver core holds the local error; where the flow is stiff it finds 2/λ by itself.",
    )


def _regions(study: Study) -> Chart | None:
    return _chart(
        "Amplification on a quadratic",
        _curves(study, "amplification", "product"),
        Axis("step size times curvature, ηλ"),
        Axis("factor of an error per step"),
        Rule("stable below", 1.0),
        "Exact gradient flow: exp(−ηλ). Only implicit and exponential methods are stable for any product.",
    )


def _distances(study: Study) -> Chart | None:
    return _chart(
        "Distance from the equation of motion",
        _curves(study, "distances", "steps"),
        Axis("steps over the same time", "log"),
        Axis("distance over the way gone", "log"),
        None,
        "Gradient flow for the one-step methods, the ball with friction for heavy ball and leapfrog.",
    )


def _columns(study: Study, table: str) -> list[str]:
    rows = study.tables.get(table, ())
    return list(rows[0]) if rows else []


def _runs(study: Study) -> list[str]:
    """The runs whose sharpness was followed, in their order."""
    return [name.removesuffix("_limit") for name in _columns(study, "edges") if name.endswith("_limit")]


def _curves(study: Study, table: str, across: str) -> list[Curve]:
    """Every other column of a table over one."""
    at = study.column(table, across)
    return [(spoken(name), at, study.column(table, name)) for name in _columns(study, table) if name != across]


def _ratio(study: Study, name: str) -> tuple[float, ...]:
    top, limit = (study.column("edges", f"{name}_{what}") for what in ("sharpness", "limit"))
    return tuple(a / b for a, b in zip(top, limit, strict=True))


def _bound(study: Study, name: str) -> tuple[float, ...]:
    """The largest stable step: η times the limit of the curvature, over the curvature."""
    sizes = study.column("edges", f"{name}_step_size")
    return tuple(size / ratio for size, ratio in zip(sizes, _ratio(study, name), strict=True))


def _chart(
    title: str, curves: Sequence[Curve], x: Axis, y: Axis, rule: Rule | None = None, note: str = ""
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
