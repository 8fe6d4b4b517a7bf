"""Regression gate: compare the metrics of this run with the committed baseline, within measured spread.

The band around a baseline value v is ``±T``, T = max(q s, floor), one band per metric:

- baseline from m >= 4 pipeline runs with other seeds: ``s = sd sqrt(1 + 1/m)`` (spread of one more run about
  the mean of m), ``sd`` being the runs' own spread or, if larger, their mean within-run standard error, since no
  run can be steadier than its own sampling noise; ``q`` is Student's quantile with m - 1 degrees of freedom;
- baseline from one run: ``s = sqrt(se_base^2 + se_now^2)``, within-run standard errors in quadrature, with the
  degrees of freedom of Welch and Satterthwaite. Training noise is not in it: such a band is honest for the same
  seed only, and the table says so;
- ``q`` belongs to a two-sided probability of ``confidence`` (0.999 by default) for each metric, so that a table
  of a hundred metrics raises a false alarm about once in twenty changes of seed;
- ``floor`` is 1e-6 of the value where the spread was measured (rounding), and 1 % where nothing was measured (one
  run, no standard error).

A baseline is a JSON file: ``{key: {value, spread, runs, se, n, direction, source}}``. It is written by `accept`
alone, and git shows the difference.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isocline.app.declaration import declarations
from isocline.metrics.uncertainty import student_quantile

__all__ = [
    "Baseline",
    "Reading",
    "Verdict",
    "accept",
    "compare",
    "direction_of",
    "flatten",
    "gate",
    "read_baseline",
    "read_metrics",
    "regressions",
    "table",
    "tolerance",
]

CONFIDENCE = 0.999
LEAST_RUNS = 4
"""From 2 runs the band is 780 of their standard deviations wide, from 3 it is 36: nothing could leave it; 14 from 4."""
_UNMEASURED_FLOOR, _MEASURED_FLOOR = 1e-2, 1e-6
_LOWER = (
    "frechet", "kernel", "class_balance_tv", "copies", "bits_per_", "perplexity", "generative_perplexity",
    "jensen_shannon", "train_loss", "loss", "nats", "nfe", "energy_distance", "rmse", "excess", "grid_error",
    "precision_loss",
)  # fmt: skip
_HIGHER = ("precision", "recall", "density", "coverage", "accuracy", "dictionary_share", "distinct")
_NOT_METRICS = ("protocol", "floor", "reference")


@dataclass(frozen=True)
class Reading:
    """One number of this run: its value, within-run standard error and count (None where unknown)."""

    value: float
    se: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Baseline:
    """What a metric is held against.

    Attributes:
        value: mean over the baseline's runs.
        spread: standard deviation between those runs; None for a single run.
        runs: number of runs.
        se: mean within-run standard error (root mean square over runs), or None.
        n: repetitions behind ``se``, or None.
        direction: ``lower`` or ``higher`` is better; ``both``: any move out of the band fails.
        source: where the spread comes from, in words.
    """

    value: float
    spread: float | None
    runs: int
    se: float | None
    n: int | None
    direction: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """One row of the gate's table; ``status`` is passed, improved, regressed, missing or new."""

    key: str
    status: str
    baseline: float | None
    value: float | None
    tolerance: float | None
    direction: str
    source: str


def direction_of(key: str) -> str:
    """Return which way is better, by the metric's name (the part of the key after the file's)."""
    parts = key.split(".")[1:] or [key]
    if any(part in _NOT_METRICS for part in parts):
        return "both"
    name = parts[0]
    if name.startswith(_LOWER):
        return "lower"
    return "higher" if name.startswith(_HIGHER) else "both"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Reading]]:
    """Yield ``(dotted key, reading)`` for every number in a metrics file.

    A mapping with ``mean`` or ``value`` is one reading; a bare number is a reading without an error; text, lists,
    booleans and everything under ``protocol`` are descriptions, not metrics.

    Raises:
        ValueError: for a number that is not finite.
    """
    for name, node in tree.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if name == "protocol" or isinstance(node, bool | str | list) or node is None:
            continue
        if isinstance(node, Mapping):
            value = node.get("mean", node.get("value"))
            if not isinstance(value, int | float):
                yield from flatten(node, key)
                continue
            reading = Reading(float(value), node.get("se"), node.get("n"))
        else:
            reading = Reading(float(node))
        if not math.isfinite(reading.value):
            raise ValueError(f"metric {key} is {reading.value}; the stage that wrote it failed, run it again")
        yield key, reading


def read_metrics(directory: Path) -> dict[str, Reading]:
    """Read every ``*.json`` in a metrics directory; keys begin with the file's name.

    Raises:
        ValueError: if there are none, or one is damaged.
    """
    files = sorted(directory.glob("*.json"))
    if not files:
        raise ValueError(f"{directory} holds no metrics (*.json); run `dvc repro` first")
    readings: dict[str, Reading] = {}
    for path in files:
        try:
            tree = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); run `dvc repro` to write it anew") from error
        if not isinstance(tree, dict):
            raise ValueError(f"{path} holds a {type(tree).__name__}; expected an object of metrics")
        readings.update(flatten(tree, path.stem))
    return readings


def read_baseline(path: Path) -> dict[str, Baseline]:
    """Read a committed baseline.

    Raises:
        ValueError: if it is missing or damaged.
    """
    if not path.exists():
        raise ValueError(f"no baseline at {path}; run `isocline gate --accept` after a run that you trust")
    try:
        return {key: Baseline(**entry) for key, entry in json.loads(path.read_text()).items()}
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from git or run `isocline gate --accept`") from error


def tolerance(baseline: Baseline, now: Reading, confidence: float = CONFIDENCE) -> float:
    """Return the half-width of the band around the baseline (formula in the module's docstring)."""
    probability = 0.5 + confidence / 2
    scale = max(abs(baseline.value), abs(now.value))
    if baseline.spread is not None and baseline.runs >= 2:
        sd = max(baseline.spread, baseline.se or 0.0)
        half = student_quantile(probability, baseline.runs - 1) * sd * math.sqrt(1 + 1 / baseline.runs)
        return max(half, _MEASURED_FLOOR * scale)
    sides = [(se, n) for se, n in ((baseline.se, baseline.n), (now.se, now.n)) if se is not None and n and n > 1]
    if len(sides) < 2:
        return _UNMEASURED_FLOOR * scale
    variance = math.fsum(se**2 for se, _ in sides)
    weight = math.fsum(se**4 / (n - 1) for se, n in sides)
    degrees = variance**2 / weight if weight > 0 else math.inf
    return max(student_quantile(probability, degrees) * math.sqrt(variance), _MEASURED_FLOOR * scale)


def _judge(key: str, baseline: Baseline, now: Reading, confidence: float) -> Verdict:
    band = tolerance(baseline, now, confidence)
    move = now.value - baseline.value
    status = "passed"
    if abs(move) > band:
        better = {"lower": move < 0, "higher": move > 0}.get(baseline.direction, False)
        status = "improved" if better else "regressed"
    return Verdict(key, status, baseline.value, now.value, band, baseline.direction, baseline.source)


def compare(
    baseline: Mapping[str, Baseline], readings: Mapping[str, Reading], confidence: float = CONFIDENCE
) -> list[Verdict]:
    """Judge every metric of either side; a metric that the baseline has and this run lacks is ``missing``."""
    verdicts = []
    for key in sorted(baseline.keys() | readings.keys()):
        if key not in readings:
            entry = baseline[key]
            verdicts.append(Verdict(key, "missing", entry.value, None, None, entry.direction, entry.source))
        elif key not in baseline:
            verdicts.append(Verdict(key, "new", None, readings[key].value, None, direction_of(key), "no baseline"))
        else:
            verdicts.append(_judge(key, baseline[key], readings[key], confidence))
    return verdicts


def regressions(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return what fails the gate: metrics that got worse beyond their band, and metrics that vanished."""
    return [verdict for verdict in verdicts if verdict.status in ("regressed", "missing")]


def gate(root: Path, profile: str, confidence: float = CONFIDENCE) -> list[Verdict]:
    """Compare ``<root>/metrics`` with ``<root>/baselines/<profile>.json``.

    Raises:
        ValueError: if either is missing or damaged.
    """
    baseline = read_baseline(root / "baselines" / f"{profile}.json")
    return compare(baseline, _of_pipeline(root, read_metrics(root / "metrics")), confidence)


def _of_pipeline(root: Path, readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """The metrics that stages of the present params.yaml write: git brings those of models of other profiles too."""
    if not (root / "dvc.yaml").exists():
        return dict(readings)
    files = {Path(path).stem for stage in declarations(root).values() for path in stage.metrics}
    return {key: reading for key, reading in readings.items() if key.split(".")[0] in files}


def accept(root: Path, profile: str, runs: Sequence[Path] = (), say: Callable[[str], None] = lambda _: None) -> Path:
    """Renew a baseline from metrics directories of pipeline runs with different seeds.

    Metrics that some seeds alone have (the work to an error that the others do not reach) are left out, and said.

    Args:
        root: the project's directory.
        profile: whose baseline.
        runs: metrics directories, one per run; by default the current ``metrics`` alone.
        say: told what is left out.

    Returns:
        The baseline's path.

    Raises:
        ValueError: if there are two or three runs, one is given twice, or they do not hold the same files of metrics.
    """
    directories = list(runs) or [root / "metrics"]
    if 1 < len(directories) < LEAST_RUNS:
        wide = student_quantile(0.5 + CONFIDENCE / 2, len(directories) - 1) * math.sqrt(1 + 1 / len(directories))
        raise ValueError(
            f"{len(directories)} runs given: their band would be {wide:.0f} standard deviations wide, which nothing "
            f"leaves; give at least {LEAST_RUNS} runs with different seeds, or one for sampling noise alone"
        )
    if len({Path(directory).resolve() for directory in directories}) < len(directories):
        raise ValueError(f"{', '.join(map(str, directories))}: a run is given twice; name each once, of its own seed")
    tables = [_of_pipeline(Path(directory).parent, read_metrics(Path(directory))) for directory in directories]
    files = [{key.partition(".")[0] for key in readings} for readings in tables]
    for directory, names in zip(directories, files, strict=True):
        if odd := sorted(names ^ files[0]):
            raise ValueError(f"{directory} and {directories[0]} differ in {odd[0]}.json; accept runs of one pipeline")
    shared = set(tables[0]).intersection(*tables)
    if some := sorted({key for readings in tables for key in readings} - shared):
        say(f"{len(some)} metrics are left out, which not every run has: {', '.join(some)}")
    entries = {key: asdict(_entry(key, [readings[key] for readings in tables])) for key in sorted(shared)}
    path = root / "baselines" / f"{profile}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(entries, indent=1, allow_nan=False) + "\n")
    os.replace(draft, path)
    return path


def _entry(key: str, readings: Sequence[Reading]) -> Baseline:
    count = len(readings)
    value = math.fsum(reading.value for reading in readings) / count
    spread = None
    if count > 1:
        spread = math.sqrt(math.fsum((reading.value - value) ** 2 for reading in readings) / (count - 1))
    errors = [reading.se for reading in readings if reading.se is not None]
    se = math.sqrt(math.fsum(error**2 for error in errors) / count) if len(errors) == count else None
    if count > 1:
        source = f"{count} runs with different seeds"
    else:
        source = "one run: sampling noise only" if se is not None else "one run: spread not measured, 1 %"
    return Baseline(value, spread, count, se, readings[0].n, direction_of(key), source)


def table(verdicts: Sequence[Verdict], *, every: bool = False) -> Any:
    """Return a rich table: what failed first; rows that passed only if ``every``."""
    from rich.table import Table

    colours = {"regressed": "bold red", "missing": "bold red", "improved": "green", "new": "cyan", "passed": "dim"}
    view = Table(title="Regression gate", title_justify="left")
    view.add_column("metric", overflow="fold")
    for name in ("baseline", "value", "tolerance"):
        view.add_column(name, justify="right", no_wrap=True)
    view.add_column("verdict", no_wrap=True)
    view.add_column("better", no_wrap=True)
    view.add_column("spread from")
    for verdict in sorted(verdicts, key=lambda v: (list(colours).index(v.status), v.key)):
        if verdict.status == "passed" and not every:
            continue
        numbers = [_number(verdict.baseline), _number(verdict.value), _number(verdict.tolerance, "±")]
        view.add_row(
            verdict.key, *numbers, f"[{colours[verdict.status]}]{verdict.status}[/]", verdict.direction, verdict.source
        )
    view.caption = ", ".join(f"{sum(v.status == s for v in verdicts)} {s}" for s in colours)
    return view


def _number(value: float | None, sign: str = "") -> str:
    return "—" if value is None else f"{sign}{value:.5g}"
