"""Densities on points: one table of continuous and discrete flows, likelihood over evaluations, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocline.report import charts, pictures, tables
from isocline.report.density_pictures import density_picture
from isocline.report.figures import MARKERS, NARROW, Axis, Series, line_chart, number, swatch
from isocline.report.sources import Model, Reading

__all__ = ["DensityPicture", "data_set", "density_charts", "density_gallery", "density_tables"]

_SCALE = 2
"""Each value of a picture is drawn as so many pixels, so that browsers need not enlarge it."""


@dataclass(frozen=True)
class DensityPicture:
    """A picture of a density or of data: a heading, what is beside it, and the PNG."""

    name: str
    note: str
    uri: str
    alt: str
    size: int


def data_set(model: Model) -> str:
    """The name of the point set that a density was trained on."""
    return str(model.settings.get("data", ""))


def _sets(models: Sequence[Model]) -> list[str]:
    return list(dict.fromkeys(data_set(model) for model in models))


def _kind(model: Model) -> str:
    """What is trained, by the class of its network."""
    target = str((model.settings.get("network") or {}).get("_target_", ""))
    return target.rsplit(".", 1)[-1]


def density_tables(models: Sequence[Model], colours: Mapping[str, int]) -> list[tables.Table]:
    """Every density on every point set, then the spread of the trace estimators.

    Args:
        models: the densities.
        colours: palette index by name.
    """
    rows: list[tables.Row] = []
    for name in _sets(models):
        part = [_row(model, colours) for model in models if data_set(model) == name]
        rows += tables.mark_best(part, {0: True, 5: True})
        floor = tables.floor_reading([m for m in models if data_set(m) == name], "energy_distance")
        if floor is not None:
            empty = tuple(tables.Cell("") for _ in range(5))
            rows.append(tables.Row(f"{name}: training data", (*empty, tables.cell(floor)), "reference", reference=True))
    columns = ("nats", "NFE at 1e-3", "NFE at 1e-5", "NFE of a sample", "weights", "energy distance")
    note = (
        "Nats: negative log-likelihood of the test split, standardised data, se over its points; exact traces at a "
        "tolerance of 1e-5. NFE of a discrete flow is one pass of the whole stack. Energy distance: samples against "
        "the test split, unbiased, sd over sampling seeds. Best of each data set marked."
    )
    found = [
        tables.Table("Continuous and discrete flows on the same points", columns, tuple(rows), note),
        _traces(models, colours),
    ]
    return [table for table in found if not table.empty]


def _row(model: Model, colours: Mapping[str, int]) -> tables.Row:
    counts = model.metrics.get("nfe")
    counts = counts if isinstance(counts, Mapping) else {}

    def count(*names: str) -> tables.Cell:
        found = next((Reading.parse(counts[name]) for name in names if name in counts), None)
        return tables.Cell(f"{found.mean:.0f}", value=found.mean) if found else tables.Cell()

    size = tables.Cell(f"{model.parameters:,}".replace(",", "\u202f")) if model.parameters else tables.Cell()
    cells = (
        tables.likelihood_cell(model.reading("nats")),
        count("rtol_1e-03", "pass"),
        count("rtol_1e-05", "pass"),
        count("sampling"),
        size,
        tables.cell(model.reading("energy_distance")),
    )
    return tables.Row(model.name, cells, f"{_kind(model)} on {data_set(model)}", colours.get(model.name))


def _traces(models: Sequence[Model], colours: Mapping[str, int]) -> tables.Table:
    names = ("hutchinson_1", "hutchinson_3", "hutch_plus_plus_3")
    rows = []
    for model in models:
        spreads = model.metrics.get("trace_sd")
        if isinstance(spreads, Mapping):
            cells = tuple(_spread(Reading.parse(spreads.get(name))) for name in names)
            rows.append(tables.Row(model.name, cells, f"on {data_set(model)}", colours.get(model.name)))
    return tables.Table(
        "Spread of an estimated ln p, nats, at equal evaluations",
        ("Hutchinson, 1 product", "Hutchinson, 3 products", "Hutch++, 3 products"),
        tuple(rows),
        "Standard deviation over probes of one point’s log-likelihood, root mean square over points, se beside it; the "
        "exact trace has none, and needs as many products with the Jacobian as there are dimensions.",
    )


def _spread(reading: Reading | None) -> tables.Cell:
    if reading is None:
        return tables.Cell()
    small = f"se {reading.se:.1g}" if reading.se is not None else ""
    return tables.Cell(number(reading.mean), small, title=tables.story(reading), value=reading.mean)


def density_charts(models: Sequence[Model], colours: Mapping[str, int]) -> list[charts.Chart]:
    """Negative log-likelihood over evaluations, one chart a point set.

    Args:
        models: the densities.
        colours: palette index by name.
    """
    return [chart for name in _sets(models) if (chart := _chart(name, models, colours)) is not None]


def _chart(name: str, models: Sequence[Model], colours: Mapping[str, int]) -> charts.Chart | None:
    series = []
    for model in models:
        curve = model.curve("nats_over_nfe") if data_set(model) == name else {}
        if curve:
            index = colours.get(model.name, 0)
            half = [2 * (reading.se or 0.0) for reading in curve.values()]
            means = [reading.mean for reading in curve.values()]
            series.append(
                Series(
                    model.name,
                    tuple(map(float, curve)),
                    tuple(means),
                    tuple(m - h for m, h in zip(means, half, strict=True)),
                    tuple(m + h for m, h in zip(means, half, strict=True)),
                    colour=index,
                    marker=MARKERS[index % len(MARKERS)],
                )
            )
    if not series:
        return None
    ticks = tuple(sorted({value for one in series for value in one.x}))
    said = "; ".join(f"{s.label} from {number(s.y[0])} to {number(s.y[-1])}" for s in series)
    drawing = line_chart(
        series,
        Axis("evaluations of the field (NFE)", "log", ticks),
        Axis("nats per point (lower is better)"),
        description=f"Negative log-likelihood on {name} over function evaluations. {said}.",
        size=NARROW,
    )
    note = (
        "Fixed steps of the classical Runge–Kutta method, 4 evaluations each; bands: ± 2 se. With too few steps the "
        "map is no exact change of variables, and the number may lie on either side of the truth."
    )
    return charts.Chart(f"Likelihood on {name}", drawing, None, tuple((s.label, swatch(s)) for s in series), note)


def density_gallery(
    models: Sequence[Model],
    tensors: Mapping[str, Mapping[str, NDArray[Any]]],
    points: Mapping[str, NDArray[Any]],
) -> dict[str, list[DensityPicture]]:
    """Pictures by point set: the data first, then what each model made of them.

    Args:
        models: the densities.
        tensors: by model, what its evaluation kept.
        points: test points by set.
    """
    found: dict[str, list[DensityPicture]] = {}
    for name in _sets(models):
        if name in points:
            found[name] = [_picture("Data", "test split", {"samples": points[name]}, f"histogram of {name}")]
    for model in models:
        kept = tensors.get(model.name) or {}
        if "samples" in kept:
            what = "density" if "log_density" in kept else "samples, first two coordinates"
            alt = f"{what} of {model.name}"
            found.setdefault(data_set(model), []).append(_picture(model.name, what, kept, alt))
    return found


def _picture(name: str, note: str, tensors: Mapping[str, NDArray[Any]], alt: str) -> DensityPicture:
    pixels = density_picture(tensors)
    pixels = np.repeat(np.repeat(pixels, _SCALE, axis=0), _SCALE, axis=1)
    return DensityPicture(name, note, pictures.data_uri(pixels), alt, len(pixels))
