"""``isocline analyse``: read a trained model by its name or its run, and log what was found to that run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from isocline.app.analysis import Analysis

__all__ = ["AnalysisRequest", "AnalysisResult", "analyse_run", "show_analysis"]

_FOLDER = "analysis"


@dataclass(frozen=True)
class AnalysisRequest:
    """What to read: see ``isocline analyse --help``."""

    out: Path | None = None
    only: tuple[str, ...] = ()
    samples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class AnalysisResult:
    """What was read, where it was written, and what was logged.

    Attributes:
        analysis: see `isocline.app.analysis.Analysis`.
        out: folder of the files.
        note: which run it was logged to, or why to none.
    """

    analysis: Analysis
    out: Path
    note: str


def analyse_run(run: str, root: Path, request: AnalysisRequest) -> AnalysisResult:
    """Read the model of a run; write tables and figures; log metrics and files to the run that made the model.

    Args:
        run: a model's name, its path, or the MLflow run that made it.
        root: the project's directory.
        request: what to read.

    Raises:
        FileNotFoundError: if there is no such model, or what it is held against is missing.
        ValueError: if a reading does not exist, or none makes sense of the model.
        OSError: if the folder cannot be written to, or the store of a run that was named does not answer.
    """
    from isocline.app.analysis import analyse, subject_of, write_analysis
    from isocline.app.artifacts import build
    from isocline.app.declaration import load_params
    from isocline.app.evaluation_stage import write_json
    from isocline.app.generate import resolve_model
    from isocline.randomness import derive_seed

    directory = resolve_model(run, root)
    params = load_params(root)
    section = (params.get("evaluation") or {}).get("analysis")
    if section is None:
        raise ValueError("params.yaml has no evaluation.analysis; run `isocline compose`")
    settings = build(section)
    settings = settings.only(request.only) if request.only else settings
    settings = settings.with_samples(request.samples) if request.samples else settings
    out = request.out or Path(f"analysis-{directory.name}")
    _check_folder(out)
    subject = subject_of(directory, _sampler(params, directory.name), str(params.get("accelerator", "cpu")))
    analysis = analyse(
        subject, settings, derive_seed(request.seed, "analyse"), lambda name: print(f"reading {name} …", flush=True)
    )
    write_analysis(analysis, out)
    document = analysis.document()
    write_json(out / "metrics.json", document)
    return AnalysisResult(analysis, out, _log(run, directory, document, out))


def _check_folder(out: Path) -> None:
    """Raise unless an analysis can be written there: found out before it is made.

    Raises:
        NotADirectoryError: if it is a file.
        ValueError: if it holds anything but an earlier analysis, which would be removed.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "metrics.json").exists():
        raise ValueError(f"--out {out} holds other files, which an analysis would replace; name a folder of its own")
    if not os.access(out if out.is_dir() else out.absolute().parent, os.W_OK):
        raise PermissionError(f"--out {out} cannot be written to; choose another folder")


def _sampler(params: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    sections = [(params.get(side) or {}).get(name) or {} for side in ("models", "students")]
    return next((section["sampler"] for section in sections if section.get("sampler")), None)


def _log(run: str, directory: Path, document: Mapping[str, Any], out: Path) -> str:
    """Send the metrics and the files to the run that made the model; say to which, or why to none."""
    from isocline.app.compare import ask_store
    from isocline.tracking.store import tracking_uri, without_credentials

    uri = tracking_uri()
    shown, named = without_credentials(uri), re.fullmatch(r"[0-9a-f]{32}", run) is not None
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return f"not tracked: there is no store {shown} yet"
    try:
        target = run if named else ask_store(directory.name, lambda client, where: _maker(client, where, directory))
        if target is None:
            return f"not tracked: no run in {shown} made this {directory.name}; name a run to log to it"
        ask_store(target, lambda client, _: _send(client, target, document, out))
    except OSError as error:
        if named:
            raise
        return f"not tracked: {error}"
    return f"logged to run {target} of {shown}"


def _maker(client: MlflowClient, experiment: str, directory: Path) -> str | None:
    """The latest finished run that made the model as it is on disk."""
    from isocline.tracking.provenance import digest

    query = f"tags.`out.data/models/{directory.name}` = '{digest(directory)}' AND attributes.status = 'FINISHED'"
    runs = client.search_runs([experiment], query, max_results=200, order_by=["start_time DESC"])
    return next((str(run.info.run_id) for run in runs if "isocline.restored_from" not in run.data.tags), None)


def _send(client: MlflowClient, run_id: str, document: Mapping[str, Any], out: Path) -> None:
    from isocline.tracking.provenance import document_metrics

    metrics = {name: values for name, values in document.items() if name != "protocol"}
    for name, value, step in document_metrics(metrics):
        client.log_metric(run_id, f"{_FOLDER}/{name}", value, step=step or 0)
    client.log_artifacts(run_id, str(out), _FOLDER)


def show_analysis(result: AnalysisResult) -> None:
    """Print a table of what was measured, what was not and why, and where it is."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from isocline.app.gate import flatten

    table = Table(box=None, pad_edge=False)
    for name, justify in (("reading", "left"), ("metric", "left"), ("value", "right"), ("± se", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for key, reading in flatten(result.analysis.document()):
        group, _, metric = key.partition(".")
        table.add_row(group, metric, f"{reading.value:.4g}", "" if reading.se is None else f"{reading.se:.2g}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for name, why in result.analysis.refused.items():
        console.print(f"{name}: not read, {why}", style="dim", highlight=False)
    print(f"{result.out}: tables, figures and metrics.json; {result.note}")
