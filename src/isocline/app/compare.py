"""Compare the metrics of runs: what each measured, and the interval of the difference.

A run is an MLflow run id, a git revision (whose committed ``metrics/*.json`` are read), ``workspace`` (the files as
they are now) or a model's name (its ``metrics/evaluate-<name>.json``). Intervals are Welch's at 95 %: the samples of
two runs are taken as independent, which is the careful choice where they shared seeds. A difference without standard
errors has no interval, and the table says so.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from isocline.metrics.uncertainty import Difference, Estimate, independent_difference
from isocline.tracking.provenance import document_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Comparison", "Row", "ask_store", "compare", "group_readings", "show"]

T = TypeVar("T")

Key = tuple[str, str, int | None]
"""Group (metrics file or stage), metric, NFE (None where there is none)."""

_PARTS = ("sd", "se", "n")
_NOT_COMPARED = ("protocol", "timing", "system", "floor", "reference")


@dataclass(frozen=True)
class Row:
    """One metric: its estimates by run (None where a run lacks it), and the differences from the first run."""

    name: str
    estimates: tuple[Estimate | None, ...]
    differences: tuple[Difference | None, ...]


@dataclass(frozen=True)
class Comparison:
    """A table of runs by metrics."""

    runs: tuple[str, ...]
    rows: tuple[Row, ...]


def compare(runs: Sequence[str], root: Path, contains: str = "") -> Comparison:
    """Read and compare two or more runs.

    Args:
        runs: see the module's docstring; differences are taken from the first.
        root: the project's directory.
        contains: keep only metrics whose name contains this.

    Raises:
        ValueError: if there are fewer than two runs, one cannot be found, or they share no metric.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run given; name at least two, for instance: isocline compare HEAD~1 workspace")
    readings = [_read(run, root) for run in runs]
    if all(len({group for group, _, _ in found}) == 1 for found in readings):
        readings = [{("", *key[1:]): value for key, value in found.items()} for found in readings]
    keys = sorted(
        {key for found in readings for key in found}, key=lambda k: (k[0], k[1], -1 if k[2] is None else k[2])
    )
    rows = [_row(key, [found.get(key) for found in readings]) for key in keys if contains in _name(key)]
    rows = [row for row in rows if sum(e is not None for e in row.estimates) > 1]
    if not rows:
        what = f" whose name contains {contains!r}" if contains else ""
        raise ValueError(f"{' and '.join(runs)} share no metric{what}; compare runs of the same kind of stage")
    return Comparison(tuple(runs), tuple(rows))


def group_readings(group: str, triples: Iterable[tuple[str, float, int | None]]) -> dict[Key, Estimate]:
    """Gather ``name``, ``name/sd``, ``name/se``, ``name/n`` into estimates."""
    parts: dict[Key, dict[str, float]] = {}
    for name, value, step in triples:
        if name.split("/")[0] in _NOT_COMPARED:
            continue
        stem, _, last = name.rpartition("/")
        known = stem and last in _PARTS
        parts.setdefault((group, stem if known else name, step), {})[last if known else "mean"] = value
    return {
        key: Estimate(found["mean"], found.get("sd"), found.get("se"), int(found.get("n", 1)))
        for key, found in parts.items()
        if "mean" in found
    }


def _name(key: Key) -> str:
    group, metric, step = key
    return f"{group + ' ' if group else ''}{metric}{'' if step is None else f' @{step}'}"


def _row(key: Key, estimates: list[Estimate | None]) -> Row:
    first = estimates[0]
    differences = [None if e is None or first is None else _difference(e, first) for e in estimates[1:]]
    return Row(_name(key), tuple(estimates), tuple(differences))


def _difference(a: Estimate, b: Estimate) -> Difference:
    if a.se is None or b.se is None or a.n < 2 or b.n < 2:
        return Difference(a.mean - b.mean, -math.inf, math.inf, 0.0, 0.95, paired=False)
    return independent_difference(a, b)


def _read(run: str, root: Path) -> dict[Key, Estimate]:
    if run == "workspace":
        files = {path.stem: path.read_text() for path in sorted((root / "metrics").glob("*.json"))}
        found = _documents(files, f"{root / 'metrics'}")
    elif (path := root / "metrics" / f"evaluate-{run}.json").exists():
        found = _documents({path.stem: path.read_text()}, str(path))
    elif re.fullmatch(r"[0-9a-f]{32}", run):
        found = _tracked(run)
    else:
        found = _documents(_committed(run, root), f"git revision {run}")
    if not found:
        raise ValueError(f"{run} holds no metrics; run `isocline repro`, or name a run that evaluated something")
    return found


def _documents(files: Mapping[str, str], where: str) -> dict[Key, Estimate]:
    found: dict[Key, Estimate] = {}
    for stem, text in files.items():
        try:
            document: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{stem}.json of {where} is not JSON ({error}); run `isocline repro` again") from error
        if not isinstance(document, dict):
            kind = type(document).__name__
            raise ValueError(f"{stem}.json of {where} holds a {kind}, not metrics; run `isocline repro` again")
        found.update(group_readings(stem, document_metrics(document)))
    return found


def _committed(revision: str, root: Path) -> dict[str, str]:
    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=False, encoding="utf-8"
        )
        return done.stdout if done.returncode == 0 else None

    commit = None if revision.startswith("-") else git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if commit is None:
        raise ValueError(
            f"no run {revision!r}: neither an evaluated model, an MLflow run id, a git revision, nor `workspace`"
        )
    names = (git("ls-tree", "-z", "--name-only", commit.strip(), "metrics/") or "").split("\0")
    files = {name: git("show", f"{commit.strip()}:./{name}") for name in names if name.endswith(".json")}
    return {Path(name).stem: text for name, text in files.items() if text is not None}


def ask_store(run_id: str, question: Callable[[MlflowClient, str], T]) -> T:
    """Ask the tracking store about a run: ``question(client, experiment)``.

    Raises:
        ValueError: if the store has no such run.
        OSError: if the store does not answer.
    """
    from isocline.tracking.store import connect, tracking_uri, without_credentials

    try:
        return question(*connect())
    except ValueError:  # of the URI itself, which its message names
        raise
    except Exception as error:  # of the client, its transport or its database
        uri = without_credentials(tracking_uri())
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            raise ValueError(f"no MLflow run {run_id} in {uri}; MLFLOW_TRACKING_URI says where to look") from error
        reason = without_credentials(" ".join(str(error).split()))[:120]
        cure = "start the server or correct MLFLOW_TRACKING_URI"
        raise OSError(f"run {run_id}: the tracking store {uri} does not answer ({reason}); {cure}") from error


def _tracked(run_id: str) -> dict[Key, Estimate]:
    """Read a stage's run, or all stages of a pipeline's run."""
    return ask_store(run_id, lambda client, experiment: _stages(run_id, client, experiment))


def _stages(run_id: str, client: MlflowClient, experiment: str) -> dict[Key, Estimate]:
    runs = [client.get_run(run_id)]
    runs += client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=500)
    found: dict[Key, Estimate] = {}
    for run in runs:
        stage, _, item = run.data.tags.get("dvc.stage", "run").partition("@")
        group = f"{stage.partition('-')[0]}-{item}" if item else stage
        triples = []
        for name in run.data.metrics:
            if name.split("/")[0] in _NOT_COMPARED:
                continue
            history = client.get_metric_history(run.info.run_id, name)
            curve = name.rpartition("/")[0] if name.rpartition("/")[2] in _PARTS else name
            stepped = any(point.step for point in history) and not stage.startswith(("train", "distill"))
            last = {point.step if stepped else None: point.value for point in history}
            triples += [(name, value, step) for step, value in last.items() if curve]
        found.update(group_readings(group, triples))
    return found


def show(comparison: Comparison) -> None:
    """Print the table; ``*`` marks a difference whose interval leaves zero out."""
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("metric", overflow="fold")
    for run in comparison.runs:
        table.add_column(run[:12] if re.fullmatch(r"[0-9a-f]{32}", run) else run, justify="right")
    for run in comparison.runs[1:]:
        table.add_column(f"{run[:12]} - {comparison.runs[0][:12]}", justify="right")
    for row in comparison.rows:
        values = [_cell(estimate) for estimate in row.estimates]
        table.add_row(row.name, *values, *(_interval(difference) for difference in row.differences))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print("differences with 95 % intervals; * the interval leaves zero out", style="dim")


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.mean:.4g}" + (f" ± {estimate.se:.2g}" if estimate.se is not None else "")


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    if not math.isfinite(difference.low):
        return f"{difference.mean:+.4g} (no interval)"
    mark = "*" if difference.significant else " "
    return f"{difference.mean:+.4g} [{difference.low:+.3g}, {difference.high:+.3g}]{mark}"
