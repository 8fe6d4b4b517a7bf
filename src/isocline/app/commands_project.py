"""Commands about the project: compose, repro, gate, compare, list, doctor, ui, sync, report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_ROOT = Path()


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    passing = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=passing)(repro)
    for command in (compose, gate, compare, doctor, ui, sync, report):
        app.command()(command)
    app.command("list")(list_)


def compose(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Hydra overrides")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check and print, write nothing")] = False,
) -> None:
    """Compose conf/ into params.yaml after checking all of it."""
    from isocline.app import compose as composing

    composition = composing.compose(overrides or [], _ROOT)
    if dry_run:
        print(composition.text, end="")
        return
    changed = composing.write(composition.text, _ROOT / "params.yaml")
    print("params.yaml written; `isocline repro` runs what changed" if changed else "params.yaml is already that")


def repro(
    context: typer.Context,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="stages side by side; default: as cores and memory allow"),
    ] = None,
) -> int:
    """Run the pipeline (arguments go to dvc repro): only what depends on a change is redone."""
    from isocline.app.repro import run_pipeline

    return int(run_pipeline(context.args, jobs) or 0)


def gate(
    accept: Annotated[bool, typer.Option("--accept", help="renew the baseline from this run")] = False,
    profile: Annotated[str | None, typer.Option(help="whose baseline; default: params.yaml's profile")] = None,
    runs: Annotated[list[Path] | None, typer.Argument(help="with --accept: metrics folders of 4 or more seeds")] = None,
) -> int:
    """Compare metrics with the committed baseline; non-zero exit on a regression."""
    from rich.console import Console

    from isocline.app import gate as gating

    profile = profile or _profile()
    if accept:
        print(f"baseline {gating.accept(_ROOT, profile, runs or [], print)} renewed; commit it")
        return 0
    verdicts = gating.gate(_ROOT, profile)
    Console(width=None if sys.stdout.isatty() else 160).print(gating.table(verdicts))
    failed = gating.regressions(verdicts)
    if failed:
        names = ", ".join(verdict.key for verdict in failed[:3])
        print(
            f"isocline: {len(failed)} metrics regressed ({names}…); if it is meant: isocline gate --accept",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _profile() -> str:
    import yaml

    path = _ROOT / "params.yaml"
    if not path.exists():
        raise FileNotFoundError("no params.yaml; run `isocline compose` in the project's directory")
    for line in path.read_text().splitlines():
        if line.startswith("profile:"):
            return str(yaml.safe_load(line)["profile"])
    raise ValueError("params.yaml has no profile; run `isocline compose`")


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="MLflow run ids, git revisions, workspace")],
    filter_: Annotated[str, typer.Option("--filter", help="only metrics whose name contains this")] = "",
) -> None:
    """Compare metrics of runs: values, and the interval of each difference."""
    from isocline.app import compare as comparing

    table = comparing.compare(runs, _ROOT, contains=filter_)
    comparing.show(table)


def list_(
    kind: Annotated[str, typer.Argument(help="solvers, processes, objectives, …; `all` lists every kind")],
    option: Annotated[str | None, typer.Argument(help="only this one, in any spelling: `samplers 'DPM++ 2M'`")] = None,
) -> None:
    """List what can be chosen: name and one line each."""
    from isocline.app import catalog

    if option is not None:
        entry = catalog.find(kind, option, _ROOT / "conf")
        print(f"{entry.name}  {entry.description}")
        return
    for name in catalog.GROUPS if kind == "all" else (kind,):
        found = catalog.entries(name, _ROOT / "conf")
        if kind == "all":
            print(f"{name}:")
        groups = {entry.group for entry in found}
        labels = [f"{e.group}={e.name}" if len(groups) > 1 else e.name for e in found]
        width = max(map(len, labels), default=0)
        for label, entry in zip(labels, found, strict=True):
            print(f"{'  ' if kind == 'all' else ''}{label:<{width}}  {entry.description}")
        if not found:
            print("  (none yet)")


def doctor() -> int:
    """Check environment, data, tracking and accelerator: what is wrong, and the cure."""
    from isocline.app import doctor as examining

    findings = examining.examine(_ROOT)
    for finding in findings:
        print(finding)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> int:
    """Open MLflow's pages on this machine (loopback only)."""
    from isocline.app.doctor import port_is_free
    from isocline.tracking.store import without_credentials

    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("http"):
        print(f"runs are tracked by the server {without_credentials(uri)}: open it in a browser")
        return 0
    if not port_is_free(port):
        raise OSError(f"port {port} is in use; choose another one: isocline ui --port {port + 1}")
    print(f"http://127.0.0.1:{port} (Ctrl-C stops it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    return subprocess.call([*command, "--host", "127.0.0.1", "--port", str(port)])


def sync() -> int:
    """Send what tracking buffered on disk while the server was away."""
    from isocline.tracking.sender import sync as send

    report = send()
    print(f"{report.sent} runs are in the store, {report.pending} wait")
    if report.error:
        raise OSError(f"{report.error}; start the server or correct MLFLOW_TRACKING_URI, then isocline sync again")
    return 0


def report(
    figures: Annotated[Path | None, typer.Option(help="write the page's figures as PNG to this folder instead")] = None,
) -> int:
    """Write reports/index.html from the results at hand."""
    from isocline.app.repro import run_pipeline

    if figures is not None:
        from isocline.app.declaration import load_params
        from isocline.report import export_figures

        written = export_figures(_ROOT, load_params(_ROOT), figures)
        print(f"{figures}: {len(written)} figures")
        return 0 if written else 1
    return int(run_pipeline(["--single-item", "--force", "report"]) or 0)
