"""Students beside their teacher: quality at few evaluations, what is left of variety, what the training cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from isocline.metrics.collapse import Diversity, collapse
from isocline.metrics.uncertainty import Estimate
from isocline.report import tables
from isocline.report.charts import Chart, error_series
from isocline.report.figures import MARKERS, NARROW, WIDE, Axis, Rule, count, line_chart, number, swatch
from isocline.report.sources import Model, Reading, Sources

__all__ = ["Group", "ratio", "student_groups"]

FEW = (1, 2, 4, 8)
"""Budgets of the table."""

MANY = 32
"""The teacher's budget that a student is held against: its largest up to this."""


class Group(NamedTuple):
    """What the page shows of one teacher's students.

    Attributes:
        teacher: the name.
        chart: distance over evaluations, or None.
        collapsed: a sentence for each student that lost its teacher's variety.
        tables: multiples of the teacher's distance, variety, cost.
        finding: the best student at each of the fewest evaluations in a sentence, or empty.
    """

    teacher: str
    chart: Chart | None
    collapsed: tuple[str, ...]
    tables: tuple[tables.Table, ...]
    finding: str = ""


def student_groups(sources: Sources, colours: Mapping[str, int]) -> list[Group]:
    """Prepare the section: a group for every model that has students, and students of those, in order.

    Args:
        sources: what was read.
        colours: palette index by model.
    """
    found = []
    for teacher in (model for model in sources.models if model.teacher is None):
        students = [model for model in sources.models if sources.taught_by(model)[-1:] == (teacher,)]
        if not students:
            continue
        reasons = {student.name: _collapsed(student, teacher) for student in students}
        quality, finding = _quality(teacher, students, colours)
        made = (quality, _variety(teacher, students, reasons, colours), _cost(teacher, students, colours))
        study = sources.studies.get(teacher.name) or {}
        lines = tuple(f"{name} {'; '.join(phrases)}." for name, phrases in reasons.items() if phrases)
        chart = _chart(teacher, students, study, colours)
        found.append(Group(teacher.name, chart, lines, tuple(t for t in made if not t.empty), finding))
    return found


def _note(model: Model, teacher: Model) -> str:
    """What stands under a name: who taught it, where that is not the group's teacher."""
    return "" if model.teacher == teacher.name else tables.origin(model)


def _many(teacher: Model) -> int | None:
    budgets = list(teacher.curve("frechet"))
    return max([nfe for nfe in budgets if nfe <= MANY] or budgets, default=None)


def _best_solver(study: Mapping[str, Any]) -> dict[int, Reading]:
    """The best sampler's distance at each budget of the teacher's study."""
    found = {}
    for nfe, names in (study.get("best") or {}).items():
        reading = Reading.parse(((study.get("frechet") or {}).get(names.get("all")) or {}).get(nfe))
        if reading is not None:
            found[int(nfe)] = reading
    return dict(sorted(found.items()))


def _chart(
    teacher: Model, students: Sequence[Model], study: Mapping[str, Any], colours: Mapping[str, int]
) -> Chart | None:
    """The distance over evaluations of teacher, its best solver and every student, bands of one standard error."""
    series = []
    for model in (teacher, *students):
        index = colours.get(model.name, 0)
        if curve := model.curve("frechet"):
            marker = MARKERS[index % len(MARKERS)]
            series.append(error_series(model.name, curve, colour=index, marker=marker, dashed=model is not teacher))
    if not any(s.dashed for s in series):
        return None
    note = "Solid: the teacher. Dashed: its students. Bands: ± one standard error over sampling seeds."
    if best := _best_solver(study):
        series.insert(1, error_series(f"{teacher.name}, best solver", best, colour=7, marker="cross"))
        of = (study.get("protocol") or {}).get("samples")
        note += f" Best solver: from the study of samplers, by its own count of images ({of})." if of else ""
    many = _many(teacher)
    rule = Rule(f"{teacher.name} at {many}", teacher.curve("frechet")[many].mean) if many is not None else None
    x = Axis("function evaluations per image (NFE)", "log", tuple(sorted({v for s in series for v in s.x})))
    positive = all(v > 0 for s in series for v in s.low) and (rule is None or rule.value > 0)
    y = Axis("Fréchet distance over the judge’s features (lower is better)", "log" if positive else "linear")
    title = f"Students of {teacher.name}: distance over evaluations"
    said = f"{title}. " + "; ".join(
        f"{s.label} from {number(s.y[0])} at {s.x[0]:.0f} to {number(s.y[-1])} at {s.x[-1]:.0f}" for s in series
    )
    return Chart(
        title,
        line_chart(series, x, y, description=said, size=NARROW, rule=rule),
        line_chart(series, x, y, description=said, size=WIDE, rule=rule, end_labels=True),
        tuple((s.label, swatch(s)) for s in series),
        note,
    )


def ratio(reading: Reading, reference: Reading) -> Estimate:
    """How many times the reference a value is: paired where both carry the same number of seeds.

    Args:
        reading: the numerator.
        reference: the denominator, of positive mean.
    """
    if len(reading.values) == len(reference.values) >= 2:
        return Estimate.from_ratio(reading.values, reference.values)
    value = reading.mean / reference.mean
    if reading.se is None or reference.se is None:
        return Estimate(value, None, None, 1)
    se = math.hypot(reading.se, value * reference.se) / reference.mean
    return Estimate(value, None, se, reading.n or 1)


def _quality(teacher: Model, students: Sequence[Model], colours: Mapping[str, int]) -> tuple[tables.Table, str]:
    """Distances as multiples of the teacher's with many evaluations, and the best of them in a sentence."""
    caption, many = "Fréchet distance as a multiple of the teacher’s (lower is better)", _many(teacher)
    if many is None or teacher.curve("frechet")[many].mean <= 0:
        return tables.Table(caption, (), ()), ""
    base = teacher.curve("frechet")[many]

    def cell(reading: Reading | None) -> tables.Cell:
        if reading is None:
            return tables.Cell()
        found = ratio(reading, base)
        small = "" if found.se is None else f"± {found.se:.2g}"
        title = f"{tables.story(reading)}; {teacher.name} at {many}: {tables.story(base)}"
        return tables.Cell(f"{number(found.mean)} ×", small, title=title, value=found.mean)

    budgets = [nfe for nfe in FEW if any(nfe in model.curve("frechet") for model in students)]
    rows = []
    for model in (*students, teacher):
        cells = tuple(cell(model.curve("frechet").get(nfe)) for nfe in budgets)
        rows.append(
            tables.Row(model.name, cells, _note(model, teacher), colours.get(model.name), reference=model is teacher)
        )
    marked = tables.mark_best(rows, dict.fromkeys(range(len(budgets)), True))
    note = (
        f"1 × is {teacher.name} at {many} evaluations, {number(base.mean)} {tables.spread(base)}; "
        "± standard error, paired over sampling seeds where they are the same."
    )
    table = tables.Table(caption, tuple(f"NFE {nfe}" for nfe in budgets), marked, note)
    return table, _finding(teacher, many, budgets, rows[: len(students)])


def _finding(teacher: Model, many: int, budgets: Sequence[int], rows: Sequence[tables.Row]) -> str:
    parts = []
    for wanted in (1, 4):
        known = [(row.cells[budgets.index(wanted)], row.head) for row in rows if wanted in budgets]
        ranked = sorted(((c.value, c, name) for c, name in known if c.value is not None), key=lambda entry: entry[0])
        if ranked:
            _, best, name = ranked[0]
            parts.append(f"{name} with {wanted} at {best.text.removesuffix(' ×')} {best.small}".rstrip() + " times")
    if not parts:
        return ""
    return f"Few evaluations: {', '.join(parts)} the distance of their teacher {teacher.name} with {many}."


def _diversity(model: Model, nfe: int) -> Diversity:
    recall, imbalance = (model.curve(name).get(nfe) for name in ("recall", "class_balance_tv"))
    return Diversity(recall.mean if recall else None, imbalance.mean if imbalance else None)


def _collapsed(student: Model, teacher: Model) -> list[str]:
    """Where the student has lost the variety that its teacher has with many evaluations."""
    many = _many(teacher)
    if many is None:
        return []
    phrases = {nfe: collapse(_diversity(student, nfe), _diversity(teacher, many)) for nfe in student.curve("frechet")}
    return [f"at NFE {nfe}, {' and '.join(found)} of {teacher.name}" for nfe, found in phrases.items() if found]


def _variety(
    teacher: Model, students: Sequence[Model], reasons: Mapping[str, Sequence[str]], colours: Mapping[str, int]
) -> tables.Table:
    """Recall and class balance at few evaluations beside the teacher's."""
    many = _many(teacher)
    kept = [
        (metric, name, nfe)
        for metric, name in (("recall", "recall"), ("class_balance_tv", "imbalance"))
        for nfe in sorted({1, 4, many or MANY})
        if any(nfe in model.curve(metric) for model in students)
    ]
    rows = []
    for model in (*students, teacher):
        cells = tuple(tables.cell(model.curve(metric).get(nfe)) for metric, _, nfe in kept)
        note = "collapsed" if reasons.get(model.name) else _note(model, teacher)
        rows.append(tables.Row(model.name, cells, note, colours.get(model.name), reference=model is teacher))
    marked = tables.mark_best(rows, {j: metric in tables.LOWER_IS_BETTER for j, (metric, _, _) in enumerate(kept)})
    note = (
        "Recall: share of real images near some sample. Imbalance: total variation from the shares of real "
        "images. Collapsed: recall below half of the teacher’s, or a quarter more samples in the wrong class."
    )
    return tables.Table("Variety of samples", tuple(f"{name}, NFE {nfe}" for _, name, nfe in kept), marked, note)


def _cost(teacher: Model, students: Sequence[Model], colours: Mapping[str, int]) -> tables.Table:
    """Steps, evaluations of the teacher, and how straight the paths became."""

    def trained(model: Model) -> tables.Cell:
        trainer = model.settings.get("trainer") or {}
        steps, batch = model.training.get("steps", trainer.get("steps")), trainer.get("batch_size")
        return tables.Cell(f"{count(steps)} × {count(batch)}") if steps and batch else tables.Cell()

    def counted(model: Model, key: str) -> tables.Cell:
        value = model.training.get(key)
        return tables.Cell(count(value)) if isinstance(value, int) else tables.Cell()

    def shape(model: Model, metric: str) -> tables.Cell:
        return tables.cell(model.reading(metric))

    columns: dict[str, Callable[[Model], tables.Cell]] = {
        "steps × batch": trained,
        "teacher evaluations": lambda model: counted(model, "teacher_evaluations"),
        "for pairs": lambda model: counted(model, "pairs_evaluations"),
        "straightness": lambda model: shape(model, "straightness"),
        "curvature": lambda model: shape(model, "curvature"),
    }
    models = (*students, teacher)
    cells = {name: tuple(make(model) for model in models) for name, make in columns.items()}
    kept = [name for name, column in cells.items() if any(c.text != "–" for c in column)]
    rows = [
        tables.Row(
            model.name,
            tuple(cells[name][i] for name in kept),
            _note(model, teacher),
            colours.get(model.name),
            reference=model is teacher,
        )
        for i, model in enumerate(models)
    ]
    note = (
        "A teacher evaluation is one image through the teacher once. Straightness: 0 for paths that are straight. "
        "Seconds differ from run to run: they stand under “Runs and speed” and in MLflow."
    )
    return tables.Table("What the students cost", tuple(kept), tuple(rows), note)
