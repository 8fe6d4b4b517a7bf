"""The chapter on stiffness and stability: what trained fields demand of solvers, and what equal quality costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isocline.report import tables
from isocline.report.chapter import Chapter, Part
from isocline.report.charts import Chart, legend
from isocline.report.figures import MARKERS, NARROW, WIDE, Axis, Series, line_chart, number
from isocline.report.sources import Reading, Sources
from isocline.report.stability_figures import Stretch, region_plot, square
from isocline.report.stability_study import study_part
from isocline.report.study import Study

__all__ = ["chapter"]

_STEPS = 8
_MEASURES = {
    "horizon": "|λ|max · span",
    "stiffness_ratio": "stiffness ratio",
    "fastest_decay": "fastest decay",
    "fastest_growth": "fastest growth",
    "lipschitz": "Lipschitz",
    "log_growth": "∫ μ₂ dt",
}


def chapter(sources: Sources) -> Chapter | None:
    """Prepare the chapter; None where no field has been studied.

    Args:
        sources: studies of the kind ``stability`` are read.
    """
    studies = list(sources.found("stability").values())
    if not studies:
        return None
    parts = [Part("Fields side by side", tuple(_findings(studies)), tables=(_measures(studies), _costs(studies)))]
    if (study := study_part(studies)) is not None:
        parts.append(study)
    parts += [_field(study) for study in studies]
    return Chapter(
        anchor="stability",
        nav="Stability",
        title="Stiffness and stability of the trained fields",
        lede="Each field is followed from typical starts; its Jacobian is known by products alone. Real parts refer to "
        "the direction of integration: negative ones decay. A network read in depth runs from 0 to its number of "
        "layers, of which each is an Euler step of length 1.",
        parts=tuple(parts),
    )


def _reading(study: Study, *path: str) -> Reading | None:
    node: Any = study.document
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return Reading.parse(node)


def _protocol(study: Study) -> Mapping[str, Any]:
    found = study.document.get("protocol")
    return found if isinstance(found, Mapping) else {}


def _methods(studies: Sequence[Study]) -> list[str]:
    return list(dict.fromkeys(name for study in studies for name in study.document.get("stable_steps") or {}))


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _findings(studies: Sequence[Study]) -> Iterator[str]:
    horizons = {study.name: found for study in studies if (found := _reading(study, "horizon"))}
    if len(horizons) > 1:
        stiffest = max(horizons, key=lambda name: horizons[name].mean)
        mildest = min(horizons, key=lambda name: horizons[name].mean)
        yield (
            f"The shortest time constant fits {number(horizons[stiffest].mean)} times into the span of {stiffest}, "
            f"{number(horizons[mildest].mean)} times into that of {mildest}."
        )


def _measures(studies: Sequence[Study]) -> tables.Table:
    methods = _methods(studies)
    columns = ("read in", *_MEASURES.values(), *(f"steps, {_shown(name)}" for name in methods), "float32", "bfloat16")
    rows = []
    for study in studies:
        kind = str(_protocol(study).get("kind", ""))
        cells = [tables.Cell("depth" if kind == "depth" else "t", kind)]
        cells += [tables.cell(_reading(study, name)) for name in _MEASURES]
        cells += [tables.cell(_reading(study, "stable_steps", name)) for name in methods]
        cells += [tables.cell(_reading(study, "precision_loss", name)) for name in ("float32", "bfloat16")]
        rows.append(tables.Row(study.name, tuple(cells)))
    note = (
        "Worst along the path, mean ± sd over states. Steps: equal steps over the span at which the method amplifies "
        "no mode beyond what the equation does. float32, bfloat16: relative difference at the end from the same solve "
        "in float64."
    )
    return tables.Table("Stiffness, stability and precision", columns, tuple(rows), note)


def _costs(studies: Sequence[Study]) -> tables.Table:
    solvers = list(dict.fromkeys(row["solver"] for study in studies for row in study.tables.get("costs", ())))
    levels = list(dict.fromkeys(row["level"] for study in studies for row in study.tables.get("costs", ())))
    rows = []
    for study in studies:
        found = {(row["solver"], row["level"]): row for row in study.tables.get("costs", ())}
        cells = tuple(_cost(found.get((solver, level))) for solver in solvers for level in levels)
        rows.append(tables.Row(study.name, cells))
    columns = tuple(f"{_shown(solver)} at {float(level):g}" for solver in solvers for level in levels)
    note = (
        "Evaluations for a relative error at the end, mean ± se over states; ≤ where the loosest tolerance was already "
        "more accurate. Work counts every direction of a Jacobian as one evaluation." + _left_out(studies)
    )
    return tables.Table("Evaluations at equal error", columns, tuple(rows), note)


def _left_out(studies: Sequence[Study]) -> str:
    """Why some solvers were not run on some fields; empty if all were."""
    reasons = {
        study.name: row["note"].removeprefix("not run: ")
        for study in studies
        for row in study.tables.get("costs", ())
        if row.get("note", "").startswith("not run")
    }
    if not reasons:
        return ""
    return " Implicit solvers solve their stages with dense Jacobians and are not run on larger states: " + (
        "; ".join(f"{name}, {reason}" for name, reason in reasons.items()) + "."
    )


def _cost(row: Mapping[str, str] | None) -> tables.Cell:
    if row is None:
        return tables.Cell()
    if not row.get("nfe"):
        reason = row.get("note", "")
        return tables.Cell(small="not run" if reason.startswith("not run") else "not reached", title=reason)
    nfe, work = float(row["nfe"]), float(row["work"])
    bound = "≤ " if row.get("note") == "at most" else ""
    spread = f"± {float(row['se']):.2g}" if row.get("se") else ""
    small = f"work {number(work)}" if work > nfe * 1.001 else spread
    return tables.Cell(f"{bound}{number(nfe)}", small, title=row.get("note", ""), value=nfe)


def _field(study: Study) -> Part:
    charts = (_regions(study), _along(study), _precision(study))
    return Part(study.name, charts=tuple(chart for chart in charts if chart is not None))


def _regions(study: Study) -> Chart | None:
    """Regions of stability and all eigenvalues that were found, times one step."""
    regions: dict[str, list[Stretch]] = {}
    for row in study.tables.get("regions", ()):
        regions.setdefault(row["method"], []).append(Stretch(*(float(row[key]) for key in ("imag", "low", "high"))))
    if not regions:
        return None
    span = _protocol(study).get("span") or [0.0, 1.0]
    depth = _protocol(study).get("kind") == "depth"
    step = 1.0 if depth else abs(float(span[1]) - float(span[0])) / _STEPS
    points = list(zip(study.column("spectrum", "real"), study.column("spectrum", "imag"), strict=True))
    values = [(step * real, step * imag, 7) for real, imag in points]
    inside = sum(1 for real, imag, _ in values if -5 <= real <= 1.5 and abs(imag) <= 3.5)
    how = "one layer" if depth else f"a step of 1/{_STEPS} of the span"
    known = ", ".join(map(_shown, regions))
    said = f"Regions of stability of {known} and {inside} eigenvalues of {study.name} times {how}"
    drawing = region_plot(regions, values, said)
    keys = tuple((_shown(name), square(index)) for index, name in enumerate(regions))
    note = f"h is {how}. {len(values) - inside} of {len(values)} values lie outside the picture."
    return Chart(
        f"Eigenvalues of {study.name} on the regions of stability",
        drawing,
        None,
        (*keys, ("hλ", square(7, True))),
        note,
    )


def _series(study: Study, table: str, column: str, label: str, index: int) -> Series | None:
    x, y, errors = (study.column(table, name) for name in ("t", column, f"{column}_se"))
    known = [i for i, value in enumerate(y) if math.isfinite(value) and value > 0]
    if not known:
        return None
    spread = [errors[i] if i < len(errors) and math.isfinite(errors[i]) else 0.0 for i in range(len(y))]
    return Series(
        label,
        tuple(x[i] for i in known),
        tuple(y[i] for i in known),
        tuple(max(y[i] - spread[i], 1e-3 * y[i]) for i in known),
        tuple(y[i] + spread[i] for i in known),
        colour=index,
        marker=MARKERS[index % len(MARKERS)],
    )


def _along(study: Study) -> Chart | None:
    named = {"spectral_radius": "spectral radius", "lipschitz": "Lipschitz", "stiffness_ratio": "stiffness ratio"}
    found = [_series(study, "path", column, label, i) for i, (column, label) in enumerate(named.items())]
    series = [one for one in found if one is not None]
    where = "layer" if _protocol(study).get("kind") == "depth" else "the flow’s own time"
    return _lines(f"Along the path of {study.name}", series, Axis(where), Axis("rate, or ratio", "log"))


def _precision(study: Study) -> Chart | None:
    rows = study.tables.get("precision", ())
    series = []
    for index, name in enumerate(dict.fromkeys(row["precision"] for row in rows)):
        own = [row for row in rows if row["precision"] == name and float(row["difference"]) > 0]
        x, y = (tuple(float(row[key]) for row in own) for key in ("t", "difference"))
        if own:
            series.append(Series(name, x, y, colour=index, marker=MARKERS[index]))
    where = "layers passed" if _protocol(study).get("kind") == "depth" else "the flow’s own time"
    axis = Axis("relative difference from float64", "log")
    return _lines(f"Precision along the path of {study.name}", series, Axis(where), axis)


def _lines(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Chart | None:
    if not series:
        return None
    said = f"{title}. " + "; ".join(f"{s.label} from {number(s.y[0])} to {number(s.y[-1])}" for s in series)
    narrow, wide = (line_chart(series, x, y, description=said, size=size) for size in (NARROW, WIDE))
    return Chart(title, narrow, wide, legend(series), "Bands: ± one standard error over states.")
