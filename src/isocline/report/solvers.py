"""Samplers of one model on the page: quality over evaluations, the best at each budget, distance from the flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from isocline.report import tables
from isocline.report.charts import Chart, error_series
from isocline.report.figures import MARKERS, NARROW, WIDE, Axis, Rule, line_chart, number, swatch
from isocline.report.sources import Reading

__all__ = ["Study", "solver_studies"]

Curves = Mapping[str, Mapping[int, Reading]]


class Study(NamedTuple):
    """What the page shows of one model's samplers."""

    model: str
    chart: Chart | None
    tables: tuple[tables.Table, ...]


def solver_studies(documents: Mapping[str, Mapping[str, Any]]) -> list[Study]:
    """Prepare the studies.

    Args:
        documents: the study's metrics by model; a model without any is left out.
    """
    return [Study(model, _chart(model, found), tuple(_tables(found))) for model, found in documents.items() if found]


def _curves(document: Mapping[str, Any], metric: str) -> Curves:
    found: dict[str, dict[int, Reading]] = {}
    for name, curve in (document.get(metric) or {}).items():
        readings = {int(nfe): reading for nfe, raw in curve.items() if (reading := Reading.parse(raw))}
        if readings:
            found[name] = dict(sorted(readings.items()))
    return found


def _shown(name: str) -> str:
    return name.replace("_optimised", ", optimised grid").replace("_", " ")


def _made(document: Mapping[str, Any]) -> Sequence[str]:
    return list((document.get("protocol") or {}).get("made") or ())


def _chart(model: str, document: Mapping[str, Any]) -> Chart | None:
    """The distance over evaluations; bands are one standard error, the line is the accurate flow's."""
    series = []
    for index, (name, curve) in enumerate(_curves(document, "frechet").items()):
        marker, dashed = MARKERS[index % len(MARKERS)], name in _made(document)
        series.append(error_series(_shown(name), curve, colour=index, marker=marker, dashed=dashed))
    if not series:
        return None
    reference = Reading.parse((document.get("reference") or {}).get("frechet"))
    rule = Rule("the accurate flow", reference.mean) if reference and reference.mean > 0 else None
    x = Axis("function evaluations per image (NFE)", "log", tuple(sorted({v for s in series for v in s.x})))
    positive = all(v > 0 for s in series for v in s.low)
    y = Axis("Fréchet distance over the judge’s features (lower is better)", "log" if positive else "linear")
    said = f"Samplers of {model} over function evaluations. " + "; ".join(
        f"{s.label} from {number(s.y[0])} at {s.x[0]:.0f} to {number(s.y[-1])} at {s.x[-1]:.0f}" for s in series
    )
    return Chart(
        f"Samplers of {model}",
        line_chart(series, x, y, description=said, size=NARROW, rule=rule),
        line_chart(series, x, y, description=said, size=WIDE, rule=rule, end_labels=True),
        tuple((s.label, swatch(s)) for s in series),
        "All start from the same noise. Dashed: grids and plug-ins made for this model. Bands: ± one standard error.",
    )


def _tables(document: Mapping[str, Any]) -> list[tables.Table]:
    frechet = _curves(document, "frechet")
    budgets = sorted({nfe for curve in frechet.values() for nfe in curve})
    columns = tuple(map(str, budgets))
    found = [tables.Table("Best sampler by NFE", columns, tuple(_best(document, frechet, budgets)), _NOTE)]
    for metric, caption in (
        ("frechet", "Fréchet distance by NFE (lower is better)"),
        ("rmse", "Distance from the flow’s own end, RMSE per pixel (lower is better)"),
    ):
        rows = [
            tables.Row(_shown(name), tuple(_cell(curve.get(nfe)) for nfe in budgets))
            for name, curve in _curves(document, metric).items()
        ]
        marked = list(tables.mark_best(rows, dict.fromkeys(range(len(budgets)), True)))
        if metric == "frechet":
            marked += [row for key in ("reference", "floor") if (row := _line(document, key, len(budgets)))]
        found.append(tables.Table(caption, columns, tuple(marked), "Mean ± standard error."))
    return [table for table in found if not table.empty]


_NOTE = (
    "Over the accurate flow: how much larger the distance is than that of the same network’s flow, with its 95 % "
    "interval, paired over the noise. Training-free: samplers on grids of their own."
)


def _best(document: Mapping[str, Any], frechet: Curves, budgets: Sequence[int]) -> list[tables.Row]:
    rows = []
    for who, head in (("free", "training-free"), ("all", "any")):
        names = [(((document.get("best") or {}).get(str(nfe)) or {}).get(who, "")) for nfe in budgets]
        cells = []
        for name, nfe in zip(names, budgets, strict=True):
            reading = frechet.get(name, {}).get(nfe)
            cells.append(tables.Cell(_shown(name), f"{number(reading.mean)} {_error(reading)}") if reading else _NONE)
        rows.append(tables.Row(head, tuple(cells)))
        excess = [((document.get("excess") or {}).get(str(nfe)) or {}).get(who) for nfe in budgets]
        rows.append(tables.Row("over the accurate flow", tuple(map(_excess, excess)), head, reference=True))
    return rows


_NONE = tables.Cell()


def _excess(raw: Any) -> tables.Cell:
    if not isinstance(raw, Mapping):
        return _NONE
    mean, low, high = (100 * float(raw[key]) for key in ("mean", "low", "high"))
    return tables.Cell(f"{tables.signed(mean)} %", f"[{tables.signed(low)}, {tables.signed(high)}]")


def _line(document: Mapping[str, Any], key: str, width: int) -> tables.Row | None:
    reading = Reading.parse((document.get(key) or {}).get("frechet"))
    if reading is None:
        return None
    head = {"reference": "the accurate flow", "floor": "real training images"}[key]
    return tables.Row(head, (_cell(reading), *(tables.Cell("") for _ in range(width - 1))), "reference", reference=True)


def _cell(reading: Reading | None) -> tables.Cell:
    if reading is None:
        return _NONE
    return tables.Cell(number(reading.mean), _error(reading), title=tables.story(reading), value=reading.mean)


def _error(reading: Reading) -> str:
    return "" if reading.se is None else f"± {number(reading.se)}"
