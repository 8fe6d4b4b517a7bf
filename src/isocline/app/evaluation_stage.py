"""What the evaluation stages share: the metrics document, the curve, the values by seed."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isocline.datasets.storage import write_bytes
from isocline.metrics.uncertainty import Estimate

__all__ = ["metrics_document", "model_section", "plain_document", "write_curve", "write_json", "write_table"]

Curves = Mapping[str, Mapping[int, Estimate]]


def _plain(node: Any) -> Any:
    if isinstance(node, Estimate):
        return _plain(node.as_dict())
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    if isinstance(node, float) and not math.isfinite(node):
        raise ValueError(f"a metric is {node}; metrics files hold finite numbers only, look at the stage's samples")
    return node


def plain_document(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as a metrics file holds them: estimates as their ``{mean, sd, se, n}``.

    Raises:
        ValueError: for a number that is not finite.
    """
    document: dict[str, Any] = _plain(values)
    return document


def metrics_document(
    values: Mapping[str, Mapping[int, Sequence[float]]],
    floor: Mapping[str, Estimate],
    protocol: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Return what ``metrics/evaluate-<name>.json`` holds.

    Args:
        values: metric name to NFE to one value per sampling seed; the values stay beside their mean, so that models
            can be compared seed by seed.
        floor: the metrics of real data.
        protocol: how it was measured; read by people, compared by nothing.
        more: further metrics.
    """
    curves = {
        name: {nfe: {**Estimate.from_values(seeds).as_dict(), "values": list(seeds)} for nfe, seeds in curve.items()}
        for name, curve in values.items()
    }
    return plain_document({**curves, **more, "floor": floor, "protocol": protocol})


def model_section(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the parameters of a model or student; a stage is shown the one side that dvc.yaml names for it."""
    sides = (params[side] for side in ("models", "students") if side in params)
    return next(side[name] for side in sides if name in side)


def write_json(path: Path, document: Any) -> None:
    """Write JSON with finite numbers only, in the order given (an NFE curve stays in rising order)."""
    write_bytes(path, (json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_curve(path: Path, curves: Curves) -> None:
    """Write a row per NFE: each mean and, where there are several seeds, its ``_sd``; blank if unmeasured."""
    budgets = sorted({nfe for curve in curves.values() for nfe in curve})
    names = [column for name in curves for column in (name, f"{name}_sd")]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["nfe", *names])
    for nfe in budgets:
        found = [curve.get(nfe) for curve in curves.values()]
        cells = [value for e in found for value in ((e.mean, e.sd) if e else (None, None))]
        writer.writerow([nfe, *("" if value is None else f"{value:.9g}" for value in cells)])
    write_bytes(path, file.getvalue().encode())


def write_table(path: Path, rows: Sequence[Mapping[str, float | str | None]]) -> None:
    """Write rows that have the same columns as CSV: numbers by nine digits, text as it is, None as nothing."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.9g}" if isinstance(value, float) else value for name, value in row.items()})
    write_bytes(path, file.getvalue().encode())
