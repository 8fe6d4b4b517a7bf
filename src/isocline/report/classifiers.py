"""Classifiers on the page: accuracy with its interval, evaluations, and what each gradient method costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isocline.metrics.uncertainty import paired_difference
from isocline.report import tables
from isocline.report.charts import Chart
from isocline.report.figures import MARKERS, NARROW, WIDE, Axis, Series, line_chart, number, swatch
from isocline.report.sources import Model, Reading

__all__ = ["accuracy_chart", "classifier_tables"]


def classifier_tables(
    models: Sequence[Model], colours: Mapping[str, int], methods: Mapping[str, Any]
) -> list[tables.Table]:
    """The classifiers side by side, then the gradient methods on one network of each kind.

    Args:
        models: the classifiers.
        colours: palette index by name.
        methods: gradient methods by name, as configured for the evaluation.
    """
    compared = [_gradient_table(model) for model in _examples(models)]
    return [table for table in (_summary(models, colours, methods), *compared) if not table.empty]


def accuracy_chart(models: Sequence[Model], colours: Mapping[str, int]) -> Chart | None:
    """Accuracy over evaluations under looser and tighter settings of the solver; None if never measured."""
    series = []
    for model in models:
        points = [
            (cost.mean, right)
            for setting, cost in model.curve("nfe_at").items()
            if (right := (model.metrics.get("accuracy_at") or {}).get(str(setting)))
        ]
        if points:
            index = colours.get(model.name, 0)
            mean, low, high = (tuple(100 * float(right[key]) for _, right in points) for key in ("mean", "low", "high"))
            series.append(
                Series(
                    model.name,
                    tuple(nfe for nfe, _ in points),
                    mean,
                    low,
                    high,
                    colour=index,
                    marker=MARKERS[index % len(MARKERS)],
                )
            )
    if not series:
        return None
    x, y = Axis("function evaluations per image (NFE), mean", "log"), Axis("accuracy on test images, %")
    said = "Accuracy over function evaluations. " + "; ".join(
        f"{s.label}: {number(min(s.y))} to {number(max(s.y))} % at {number(min(s.x))} to {number(max(s.x))} evaluations"
        for s in series
    )
    return Chart(
        "Accuracy over evaluations",
        line_chart(series, x, y, description=said, size=NARROW),
        line_chart(series, x, y, description=said, size=WIDE, end_labels=True),
        tuple((s.label, swatch(s)) for s in series),
        "Tolerances of 0.1 and below where steps are adaptive, else numbers of steps; each network was trained at one "
        "setting. Bands: Wilson’s 95 % intervals over test images.",
    )


def _summary(models: Sequence[Model], colours: Mapping[str, int], methods: Mapping[str, Any]) -> tables.Table:
    rows = []
    base = models[0] if models else None
    for model in models:
        accuracy = model.metrics.get("accuracy")
        cells = [_accuracy(accuracy), tables.Cell()]
        if base is not None and model is not base and len(model.right) == len(base.right) > 1:
            cells[1] = _paired(model, base)
        own = _own_gradient(model, methods)
        report = (model.metrics.get("gradients") or {}).get(own) or {}
        kept = report.get("kept_bytes")
        nfe, most = model.reading("nfe"), model.reading("nfe_max")
        cells += [
            tables.likelihood_cell(model.reading("nats")),
            tables.cell(model.reading("calibration_error")),
            tables.Cell(f"{model.parameters:,}".replace(",", "\u202f")) if model.parameters else tables.Cell(),
            tables.Cell(number(nfe.mean), f"max {number(most.mean)}" if most else "") if nfe else tables.Cell(),
            tables.cell(Reading.parse(report.get("nfe_backward"))),
            tables.Cell(number(kept / 1024), value=kept) if kept else tables.Cell(),
        ]
        rows.append(tables.Row(model.name, tuple(cells), own.replace("_", " "), colours.get(model.name)))
    against = f"minus {base.name}, points" if base else "difference"
    return tables.Table(
        "Classifiers side by side",
        ("accuracy, %", against, "nats", "calibration error", "weights", "NFE", "NFE backward", "KiB kept"),
        tables.mark_best(rows, {0: False, 2: True}),
        "Accuracy with Wilson’s 95 % interval; differences are paired over test images. They speak of these images and "
        "these weights, not of another training. NFE backward and the KiB of tensors kept for the backward pass are of "
        "the gradient method that the network was trained with, on one small batch.",
    )


def _paired(model: Model, base: Model) -> tables.Cell:
    mine, theirs = ([100.0 * right for right in m.right] for m in (model, base))
    found = paired_difference(mine, theirs)
    return tables.Cell(
        tables.signed(found.mean),
        f"[{tables.signed(found.low)}, {tables.signed(found.high)}]",
        apart=found.significant,
        better=found.low > 0,
        title="95 % interval, paired over test images",
    )


def _accuracy(raw: Any) -> tables.Cell:
    reading = Reading.parse(raw)
    if reading is None:
        return tables.Cell()
    low, high = (100 * float(raw[key]) for key in ("low", "high"))
    return tables.Cell(
        f"{100 * reading.mean:.1f}", f"[{low:.1f}, {high:.1f}]", title=f"n = {reading.n}", value=reading.mean
    )


def _own_gradient(model: Model, methods: Mapping[str, Any]) -> str:
    """The name of the gradient method that the model was trained with; the first where it names none."""
    section = (model.settings.get("network") or {}).get("gradient") or {}
    known = {(method or {}).get("_target_"): name for name, method in methods.items()}
    return str(known.get(section.get("_target_"), next(iter(methods), "backpropagation")))


def _examples(models: Sequence[Model]) -> list[Model]:
    """The first network with adaptive steps and the first with a fixed number, if methods were compared on them."""
    found: dict[bool, Model] = {}
    for model in models:
        compared = model.metrics.get("gradients") or {}
        if len(compared) > 1:
            found.setdefault(any("error_tight" in report for report in compared.values()), model)
    return list(found.values())


def _gradient_table(model: Model) -> tables.Table:
    compared = model.metrics.get("gradients") or {}
    first = next(iter(compared), "")
    rows = []
    for name, report in compared.items():
        kept, most = (report.get(key) for key in ("kept_bytes", "most_bytes"))
        cells = (
            *(_error(report.get(key)) for key in ("error", "error_tight")),
            *(tables.cell(Reading.parse(report.get(key))) for key in ("nfe_forward", "nfe_backward")),
            *(tables.Cell(number(size / 1024), value=size) if size else tables.Cell() for size in (kept, most)),
        )
        rows.append(tables.Row(name, cells, "warned" if report.get("warned") else ""))
    return tables.Table(
        f"Gradient methods on the weights of {model.name}",
        ("error", "error, tight", "NFE forward", "NFE backward", "KiB kept", "KiB at most"),
        tuple(rows),
        f"Relative to {first}, in float64: under the solver of training, and at a tight tolerance where steps are "
        "adaptive. KiB: bytes of tensors kept for the backward pass, and alive at the same time at most, in float32. "
        "“Warned” is what the method itself says of its gradient.",
    )


def _error(value: Any) -> tables.Cell:
    reading = Reading.parse(value)
    if reading is None:
        return tables.Cell()
    return tables.Cell(f"{reading.mean:.1e}" if reading.mean else "0", value=reading.mean)
