"""Which solver and which regulariser buys how many evaluations at equal quality: the table and the bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from isocline.metrics.equal_quality import Level, Needed, needed_nfe, ratio
from isocline.report import tables
from isocline.report.chapter import Part
from isocline.report.charts import Chart
from isocline.report.figures import number
from isocline.report.sources import Reading
from isocline.report.stability_figures import Bar, bars, square
from isocline.report.study import Study

__all__ = ["study_part"]

BASE_MODEL, BASE_SOLVER = "flow", "euler"


class _Need(NamedTuple):
    """Evaluations that one solver needs on one model; None where no budget was enough."""

    found: Mapping[str, Any] | None

    @property
    def values(self) -> Sequence[float]:
        return () if self.found is None else self.found.get("values") or ()

    def cell(self, most: float) -> tables.Cell:
        """The need with its interval, or that the largest budget was not enough."""
        if self.found is None:
            return tables.Cell(f"> {number(most)}", "not reached")
        low, high = float(self.found["low"]), float(self.found["high"])
        end = "∞" if self.found.get("open_above") else number(high)
        mean = float(self.found["mean"])
        sign = "≤ " if self.found.get("at_most") else ""
        small = "" if sign and math.isclose(low, high) else f"[{number(low)}, {end}]"
        return tables.Cell(f"{sign}{number(mean)}", small, value=mean, title="95 % interval, jackknife over groups")


def study_part(studies: Sequence[Study]) -> Part | None:
    """Prepare the part; None where no model of images was studied.

    Args:
        studies: of all models; the one named ``flow``, or else the first, is what the others are held against.
    """
    own = [study for study in studies if study.document.get("nfe_equal_quality") is not None]
    if not own:
        return None
    base = next((study for study in own if study.name == BASE_MODEL), own[0])
    rows = [row for study in own for row in _rows(study, base)]
    protocol = own[0].document.get("protocol") or {}
    note = (
        f"Equal error: {protocol.get('nfe_equal_error')}. Own quality: {protocol.get('nfe_equal_quality')}. Quality of "
        f"{base.name}: the same against {base.name}’s converged distance. Ratio: own quality, over {base.name} by "
        f"{BASE_SOLVER}. Brackets: 95 % intervals, ratios paired over groups of samples. Samples: "
        f"{protocol.get('samples')}. ≤: the smallest budget was enough."
    )
    columns = ("equal error", "own quality", f"quality of {base.name}", "ratio")
    needs = tables.Table("Evaluations at equal error and at equal quality", columns, tuple(rows), note)
    charts = tuple(chart for chart in (_chart(own),) if chart is not None)
    return Part("What solver and regulariser buy", tuple(_findings(own, base)), charts, (needs, _converged(own, base)))


def _solvers(study: Study) -> list[str]:
    return list(study.document.get("frechet") or {})


def _need(study: Study, key: str, solver: str) -> _Need:
    return _Need((study.document.get(key) or {}).get(solver))


def _most(study: Study, solver: str) -> float:
    spent = (study.document.get("spent_nfe") or {}).get(solver) or {}
    return max((reading.mean for raw in spent.values() if (reading := Reading.parse(raw))), default=math.nan)


def _at_base_quality(study: Study, base: Study, solver: str) -> _Need:
    """Evaluations at which this model is as good as the base at its best, within the same tolerance."""
    spent = (study.document.get("spent_nfe") or {}).get(solver) or {}
    curve = (study.document.get("frechet") or {}).get(solver) or {}
    bar = (base.document.get("reference") or {}).get("frechet") or {}
    within = float((base.document.get("protocol") or {}).get("within") or 0.0)
    try:
        points = sorted((float(spent[key]["mean"]), Level.of(curve[key])) for key in curve)
        found = needed_nfe([nfe for nfe, _ in points], [level for _, level in points], Level.of(bar).times(1 + within))
    except (KeyError, TypeError, ValueError):  # measured with other groups, or damaged: no comparison
        return _Need(None)
    return _Need(found.as_dict() if isinstance(found, Needed) else None)


def _rows(study: Study, base: Study) -> Iterator[tables.Row]:
    reference = _need(base, "nfe_equal_quality", BASE_SOLVER)
    for solver in _solvers(study):
        most, own = _most(study, solver), _need(study, "nfe_equal_quality", solver)
        cells = (
            _need(study, "nfe_equal_error", solver).cell(most),
            own.cell(most),
            _at_base_quality(study, base, solver).cell(most),
            _ratio(own, reference),
        )
        yield tables.Row(f"{study.name}, {solver.replace('_', ' ')}", cells)


def _ratio(own: _Need, reference: _Need) -> tables.Cell:
    if len(own.values) != len(reference.values) or len(own.values) < 2:
        return tables.Cell()
    found = ratio(own.values, reference.values)
    apart = found.high < 1 or found.low > 1
    sign = "≤ " if own.found and own.found.get("at_most") else ""
    return tables.Cell(
        f"{sign}{number(found.mean)}×",
        f"[{number(found.low)}, {number(found.high)}]",
        apart=apart,
        better=found.high < 1,
        value=found.mean,
    )


def _converged(studies: Sequence[Study], base: Study) -> tables.Table:
    def converged(study: Study) -> Reading | None:
        return Reading.parse((study.document.get("reference") or {}).get("frechet"))

    reference, rows = converged(base), []
    for study in studies:
        own = converged(study)
        against = tables.Cell() if study is base else tables.difference_cell(own, reference, lower_is_better=True)
        small = "" if own is None or own.se is None else f"se {tables.error(own.se)}"
        shown = tables.Cell() if own is None else tables.Cell(number(own.mean), small, value=own.mean)
        rows.append(tables.Row(study.name, (shown, against)))
    columns = ("Fréchet distance", f"minus {base.name}")
    note = "Of the accurate flow. Differences with 95 % intervals, paired over groups: the same noise for all models."
    return tables.Table("Converged quality", columns, tuple(rows), note)


def _chart(studies: Sequence[Study]) -> Chart | None:
    colours = {
        solver: index for index, solver in enumerate(dict.fromkeys(s for each in studies for s in _solvers(each)))
    }
    rows = []
    for study in studies:
        for solver in _solvers(study):
            found = _need(study, "nfe_equal_error", solver).found
            if found is not None:
                high = math.inf if found.get("open_above") else float(found["high"])
                name = f"{study.name}, {solver.replace('_', ' ')}"
                rows.append(Bar(name, float(found["mean"]), float(found["low"]), high, colours[solver]))
    if not rows:
        return None
    said = "Evaluations at equal error: " + "; ".join(f"{row.label} {number(row.value)}" for row in rows)
    drawing = bars(rows, "function evaluations per image", said)
    keys = tuple((solver.replace("_", " "), square(colour)) for solver, colour in colours.items())
    return Chart("Evaluations at equal error", drawing, None, keys, "Bars: 95 % intervals.")


def _findings(studies: Sequence[Study], base: Study) -> Iterator[str]:
    for study in studies:
        needs = {
            solver: found for solver in _solvers(study) if (found := _need(study, "nfe_equal_error", solver).found)
        }
        if needs:
            best = min(needs, key=lambda solver: float(needs[solver]["mean"]))
            euler = needs.get(BASE_SOLVER)
            against = f", euler {number(float(euler['mean']))}" if euler and best != BASE_SOLVER else ""
            yield (
                f"On {study.name} {best.replace('_', ' ')} needs fewest evaluations at equal error: "
                f"{number(float(needs[best]['mean']))}{against}."
            )
    reference = _need(base, "nfe_equal_error", BASE_SOLVER)
    for study in studies:
        own = _need(study, "nfe_equal_error", BASE_SOLVER)
        if study is base or len(own.values) != len(reference.values) or len(own.values) < 2:
            continue
        relative = ratio(own.values, reference.values)
        sure = "fewer" if relative.high < 1 else "more" if relative.low > 1 else "not surely fewer or more"
        yield (
            f"Euler’s method needs {number(relative.mean)} times the evaluations on {study.name} that it needs on "
            f"{base.name} at equal error ([{number(relative.low)}, {number(relative.high)}]): {sure}."
        )
