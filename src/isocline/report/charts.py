"""Which charts and tables the page shows, from the models' metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from isocline.report import tables
from isocline.report.figures import MARKERS, NARROW, WIDE, Axis, Rule, Series, Size, line_chart, number, swatch
from isocline.report.sources import Model, Reading

IMAGE_FLOOR = "real train against real test"


@dataclass(frozen=True)
class Chart:
    """A figure of the page: the drawing for narrow screens, one for wide ones if it differs, and the legend."""

    title: str
    narrow: Markup
    wide: Markup | None
    legend: tuple[tuple[str, Markup], ...]
    note: str = ""


def interval(reading: Reading) -> tuple[float, float]:
    """Mean ± sd, or ± 2 se where there is no sd; the mean alone where there is neither."""
    half = reading.sd if reading.sd is not None else 2 * (reading.se or 0.0)
    return reading.mean - half, reading.mean + half


def style(model: Model, colours: Mapping[str, int]) -> dict[str, Any]:
    """Colour, marker and dash of a model's curve: a student's is dashed."""
    index = colours.get(model.name, 0)
    return {"colour": index, "marker": MARKERS[index % len(MARKERS)], "dashed": model.teacher is not None}


def error_series(name: str, curve: Mapping[int, Reading], **style: Any) -> Series:
    """One curve over NFE with a band of ± one standard error; further arguments are those of `Series`."""
    mean = tuple(reading.mean for reading in curve.values())
    errors = tuple(reading.se or 0.0 for reading in curve.values())
    low, high = (tuple(m + sign * e for m, e in zip(mean, errors, strict=True)) for sign in (-1, 1))
    return Series(name, tuple(map(float, curve)), mean, low, high, **style)


def curve_series(models: Sequence[Model], metric: str, colours: Mapping[str, int]) -> list[Series]:
    """A metric over NFE, one curve a model, with a band of ± sd."""
    found = []
    for model in models:
        curve = model.curve(metric)
        if curve:
            bands = [interval(r) for r in curve.values()]
            found.append(
                Series(
                    model.name,
                    tuple(map(float, curve)),
                    tuple(r.mean for r in curve.values()),
                    tuple(low for low, _ in bands),
                    tuple(high for _, high in bands),
                    **style(model, colours),
                )
            )
    return found


def legend(series: Sequence[Series]) -> tuple[tuple[str, Markup], ...]:
    """Each curve's name with a sample of its line."""
    return tuple((s.label, swatch(s)) for s in series)


def _describe(series: Sequence[Series], what: str) -> str:
    ends = "; ".join(
        f"{s.label} from {number(s.y[0])} at {s.x[0]:.0f} to {number(s.y[-1])} at {s.x[-1]:.0f}" for s in series if s.y
    )
    return f"{what}. {ends}."


def _wide_range(series: Sequence[Series]) -> bool:
    values = [v for s in series for v in s.y if v > 0]
    return bool(values) and max(values) / min(values) > 4 and all(v > 0 for s in series for v in (*s.y, *s.low))


def nfe_chart(
    models: Sequence[Model],
    metric: str,
    title: str,
    unit: str,
    colours: Mapping[str, int],
    *,
    floor_name: str,
    large: bool = False,
    note: str = "",
) -> Chart | None:
    """A metric over the number of function evaluations, teachers and students together; None if never measured."""
    series = curve_series(models, metric, colours)
    if not series:
        return None
    floor = tables.floor_reading(models, metric)
    rule = Rule(floor_name, floor.mean) if floor is not None else None
    logarithmic = _wide_range(series) and (rule is None or rule.value > 0)
    x = Axis("function evaluations per sample (NFE)", "log", tuple(sorted({v for s in series for v in s.x})))
    y = Axis(unit, "log" if logarithmic else "linear")
    said = _describe(series, f"{title} over function evaluations")
    narrow = line_chart(series, x, y, description=said, size=NARROW, rule=rule)
    wide = line_chart(series, x, y, description=said, size=WIDE, rule=rule, end_labels=True) if large else None
    return Chart(title, narrow, wide, legend(series), note)


def image_charts(models: Sequence[Model], colours: Mapping[str, int]) -> dict[str, list[Chart]]:
    """The main curve (`lead`) and the smaller ones (`more`) of the teachers; students have a section of their own."""
    lead = nfe_chart(
        models, "frechet", "Fréchet distance", "Fréchet distance over the judge’s features (lower is better)",
        colours, floor_name=IMAGE_FLOOR, large=True,
        note="Bands: ± one standard deviation over sampling seeds.",
    )  # fmt: skip
    more = [
        nfe_chart(models, metric, title, unit, colours, floor_name="real")
        for metric, title, unit in (
            ("kernel", "Kernel distance", "unbiased kernel distance (lower is better)"),
            ("precision", "Precision", "share of samples that look real"),
            ("recall", "Recall", "share of real data that is covered"),
            ("class_entropy", "Class balance of samples", "entropy of predicted classes, nats"),
        )
    ]
    return {"lead": [lead] if lead else [], "more": [chart for chart in more if chart]}


def _summary_rows(
    models: Sequence[Model], metric: str, likelihood: str, extra: Sequence[str], colours: Mapping[str, int]
) -> list[tables.Row]:
    rows = []
    for model in models:
        curve = model.curve(metric)
        first, last = (min(curve), max(curve)) if curve else (None, None)
        cells = [
            tables.likelihood_cell(model.reading(likelihood)),
            tables.cell(curve.get(first)) if first is not None else tables.Cell(),
            tables.cell(curve.get(last)) if last is not None else tables.Cell(),
        ]
        for name in extra:
            other = model.curve(name)
            cells.append(tables.cell(other[max(other)]) if other else tables.Cell())
        rows.append(tables.Row(model.name, tuple(cells), tables.origin(model), colours.get(model.name)))
    return rows


def image_tables(models: Sequence[Model], colours: Mapping[str, int]) -> list[tables.Table]:
    """Summary, Fréchet distance over NFE, differences between teachers (students: as multiples, in their section)."""
    teachers = [model for model in models if model.teacher is None]
    steps = tables.budgets(models, "frechet")
    found = [
        tables.curve_table(models, "frechet", "Fréchet distance by NFE (lower is better)", colours, IMAGE_FLOOR),
        tables.difference_table(teachers, "frechet", "Difference in Fréchet distance at the same NFE", colours),
    ]
    if steps:
        names = ("bits/dim", "Fréchet, fewest NFE", "Fréchet, most NFE", "precision", "recall")
        rows = _summary_rows(models, "frechet", "bits_per_dim", ("precision", "recall"), colours)
        rows = list(tables.mark_best(rows, {1: True, 2: True, 3: False, 4: False}))
        note = "Each model at its own fewest and most evaluations; bits/dim by the probability-flow ODE where defined."
        found.insert(0, tables.Table("Image models side by side", names, tuple(rows), note))
    return [table for table in found if not table.empty]


def smooth(values: Sequence[float], bins: int) -> tuple[list[float], list[float]]:
    """Bin means: (relative position of each bin's centre in 0 … 1, mean); non-finite values are left out."""
    data = np.asarray(values, dtype=np.float64)
    edges = np.linspace(0, len(data), min(bins, len(data)) + 1).round().astype(int)
    centres, means = [], []
    for low, high in pairwise(edges):
        part = data[low:high][np.isfinite(data[low:high])]
        if len(part):
            centres.append((low + high - 1) / 2 / max(len(data) - 1, 1))
            means.append(float(part.mean()))
    return centres, means


def training_charts(models: Sequence[Model], colours: Mapping[str, int], bins: int = 60) -> list[tuple[Model, Chart]]:
    """The loss of each model over its training steps, averaged in bins."""
    found = []
    for model in models:
        loss = model.history.get("loss") or model.history.get("total") or ()
        steps = model.history.get("step") or tuple(range(len(loss)))
        if not loss or len(steps) != len(loss):
            continue
        places, means = smooth(loss, bins)
        first, last = steps[0], steps[-1]
        x = tuple(first + p * (last - first) for p in places)
        series = [Series(model.name, x, tuple(means), colour=colours.get(model.name, 0), marker="none")]
        spread = max(means) / min(means) if means and min(means) > 0 else math.inf
        y = Axis("loss", "log" if 4 < spread < math.inf else "linear")
        said = f"Training loss of {model.name}: from {number(means[0])} to {number(means[-1])} over {last:.0f} steps"
        drawing = line_chart(series, Axis("step"), y, description=said, size=Size(400, 230))
        found.append((model, Chart(model.name, drawing, None, ())))
    return found
