"""Comparison tables: values with their spread, the best of each column marked, differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from isocline.metrics.uncertainty import Difference, Estimate, independent_difference, paired_difference
from isocline.report.figures import number
from isocline.report.sources import Model, Reading

LOWER_IS_BETTER = frozenset(
    {
        "frechet",
        "frechet_train",
        "kernel",
        "bits_per_dim",
        "bits_per_char",
        "bits_per_char_flow",
        "perplexity",
        "generative_perplexity",
        "generative_perplexity_ngram",
        "jensen_shannon",
        "class_balance_tv",
    }
)
"""Metrics whose smaller value is better; all others are better when larger, or have no better (entropy)."""

NEUTRAL = frozenset(
    {
        "entropy",
        "class_entropy",
        "spent_nfe",
        "spent_nfe_most",
        "memorisation",
        "distinct_1",
        "distinct_2",
        "self_bleu_3",
        "self_bleu_4",
    }
)
"""Metrics that are not better at either end: they are read against the floor of real data."""


@dataclass(frozen=True)
class Cell:
    """One cell: the value, what follows it in small print, and its standing.

    Attributes:
        text: the value, or a dash.
        small: spread or interval.
        best: the best of its column.
        apart: the interval of the difference leaves zero out.
        better: the difference is an improvement.
        title: the full story for a tooltip.
        value: the number itself, for comparisons.
        run: stage whose wall-clock figure the page's script puts here, if it has the runs (`runs.js`).
        timing: name of that figure; its seconds if empty.
    """

    text: str = "–"
    small: str = ""
    best: bool = False
    apart: bool = False
    better: bool = False
    title: str = ""
    value: float | None = None
    run: str = ""
    timing: str = ""


@dataclass(frozen=True)
class Row:
    """A table row, headed by a model or a reference."""

    head: str
    cells: tuple[Cell, ...]
    note: str = ""
    colour: int | None = None
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption and column heads; ``head`` stands above the rows' own heads."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    head: str = "model"

    @property
    def empty(self) -> bool:
        """Whether no cell holds a value."""
        return all(cell.text == "–" for row in self.rows for cell in row.cells)


def signed(value: float) -> str:
    """A number that always shows its sign."""
    return f"+{number(value)}" if value >= 0 else number(value)


def _decimals(value: float) -> int:
    return 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))


def error(value: float) -> str:
    """An error with two significant digits; a large one in full, not with an exponent."""
    return f"{value:.2g}" if value < 99.5 else number(value)


def spread(reading: Reading) -> str:
    """The spread over repetitions as ± sd, with the decimals of the mean; ± se where there is no sd."""
    value = reading.sd if reading.sd is not None else reading.se
    if value is None:
        return ""
    digits = _decimals(reading.mean) if abs(reading.mean) < 9999.5 else 0
    return f"± {value:.{digits}f}" if value >= 0.5 * 10**-digits else f"± {value:.1g}"


def story(reading: Reading, unit: str = "") -> str:
    """Mean, sd, se, n and kind in one line."""
    parts = [f"mean {reading.mean:.5g}{unit}"]
    if reading.sd is not None:
        parts.append(f"sd {reading.sd:.2g}")
    if reading.se is not None:
        parts.append(f"se {reading.se:.2g}")
    if reading.n is not None:
        parts.append(f"n = {reading.n}")
    if reading.kind:
        parts.append(reading.kind)
    return ", ".join(parts)


def cell(reading: Reading | None) -> Cell:
    """A value with its spread."""
    if reading is None:
        return Cell()
    return Cell(number(reading.mean), spread(reading), title=story(reading), value=reading.mean)


def likelihood_cell(reading: Reading | None) -> Cell:
    """A likelihood: its standard error and its kind stand beside it."""
    if reading is None:
        return Cell()
    spread_of_mean = "" if reading.se is None else f"se {error(reading.se)}"
    small = " ".join(part for part in (spread_of_mean, reading.kind) if part)
    text = f"{reading.mean:.3f}" if abs(reading.mean) < 10 else number(reading.mean)
    return Cell(text, small, title=story(reading), value=reading.mean)


def difference(a: Reading, b: Reading) -> Difference:
    """The difference a − b: paired where both sides carry the same number of seeds, else Welch's."""
    if len(a.values) == len(b.values) >= 2:
        return paired_difference(a.values, b.values)
    return independent_difference(_estimate(a), _estimate(b))


def _estimate(reading: Reading) -> Estimate:
    se = reading.se if reading.n is not None and reading.n > 1 else None
    return Estimate(reading.mean, reading.sd, se, reading.n or 1)


def difference_cell(a: Reading | None, b: Reading | None, lower_is_better: bool) -> Cell:
    """The difference with its 95 % interval; marked when the interval leaves zero out."""
    if a is None or b is None:
        return Cell()
    found = difference(a, b)
    if not math.isfinite(found.low):
        return Cell(signed(found.mean), "no interval", title="one repetition: no interval")
    how = "paired over seeds" if found.paired else "not paired (Welch)"
    return Cell(
        signed(found.mean),
        f"[{signed(found.low)}, {signed(found.high)}]",
        apart=found.significant,
        better=found.significant and (found.mean < 0) == lower_is_better,
        title=f"95 % interval, {how}",
    )


def mark_best(rows: Sequence[Row], columns: Mapping[int, bool]) -> tuple[Row, ...]:
    """Mark the best value of the given columns (index to whether lower is better) among rows that are no reference."""
    best: set[tuple[int, int]] = set()
    for column, lower in columns.items():
        values = {i: row.cells[column].value for i, row in enumerate(rows) if not row.reference}
        known = {i: v for i, v in values.items() if v is not None}
        if len(known) > 1:
            goal = (min if lower else max)(known.values())
            best |= {(i, column) for i, v in known.items() if v == goal}
    return tuple(
        replace(row, cells=tuple(replace(c, best=(i, j) in best) for j, c in enumerate(row.cells)))
        for i, row in enumerate(rows)
    )


def budgets(models: Sequence[Model], metric: str) -> list[int]:
    """Every NFE at which some model has the metric."""
    return sorted({nfe for model in models for nfe in model.curve(metric)})


def floor_reading(models: Sequence[Model], metric: str) -> Reading | None:
    """What real data score under the metric, from the first model whose evaluation holds it."""
    for model in models:
        floor = model.metrics.get("floor")
        found = Reading.parse(floor.get(metric)) if isinstance(floor, Mapping) else None
        if found is None and metric == "frechet":
            found = Reading.parse(floor)
        if found is not None:
            return found
    return None


def curve_table(
    models: Sequence[Model], metric: str, caption: str, colours: Mapping[str, int], floor_name: str
) -> Table:
    """One metric over NFE: a row a model, the floor last."""
    steps = budgets(models, metric)
    rows = [
        Row(m.name, tuple(cell(m.curve(metric).get(k)) for k in steps), origin(m), colours.get(m.name)) for m in models
    ]
    if metric not in NEUTRAL:
        rows = list(mark_best(rows, dict.fromkeys(range(len(steps)), metric in LOWER_IS_BETTER)))
    floor = floor_reading(models, metric)
    if floor is not None and steps:
        rows.append(Row(floor_name, (cell(floor), *(Cell("") for _ in steps[1:])), "reference", reference=True))
    seeds = next((r.n for m in models for r in m.curve(metric).values() if r.n), None)
    note = f"Mean ± standard deviation over {seeds} sampling seeds." if seeds and seeds > 1 else ""
    return Table(caption, tuple(str(k) for k in steps), tuple(rows), note)


def difference_table(models: Sequence[Model], metric: str, caption: str, colours: Mapping[str, int]) -> Table:
    """Each student minus its teacher, and each teacher minus the first one, at the same NFE."""
    teachers = [m for m in models if m.teacher is None]
    baseline = teachers[0] if teachers else None
    by_name = {m.name: m for m in models}
    steps = budgets(models, metric)
    rows = []
    for model in models:
        other = by_name.get(model.teacher or "") or (baseline if model is not baseline else None)
        if other is None or other is model:
            continue
        mine, theirs = model.curve(metric), other.curve(metric)
        cells = tuple(difference_cell(mine.get(k), theirs.get(k), metric in LOWER_IS_BETTER) for k in steps)
        if any(c.text != "–" for c in cells):
            rows.append(Row(f"{model.name} − {other.name}", cells, "", colours.get(model.name)))
    kept = [j for j in range(len(steps)) if any(row.cells[j].text != "–" for row in rows)]
    rows = [replace(row, cells=tuple(row.cells[j] for j in kept)) for row in rows]
    paired = any("paired over seeds" in c.title for row in rows for c in row.cells)
    note = "Difference with its 95 % interval, " + ("paired over sampling seeds." if paired else "Welch’s, not paired.")
    return Table(caption, tuple(str(steps[j]) for j in kept), tuple(rows), note)


def origin(model: Model) -> str:
    """Where the model comes from."""
    return f"student of {model.teacher}" if model.teacher else "teacher"
