"""The parent run of one pipeline invocation: what ran, what was restored, and where each stage's results come from."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isocline.tracking.provenance import digest, digest_tags, document_metrics, git_state, plain
from isocline.tracking.scratch import settle
from isocline.tracking.sender import Sender
from isocline.tracking.spool import RUNS, Spool, exclusive, spools_under, write_atomically

__all__ = ["PipelineRun", "StageOutcome", "StageRecord"]

RAN, RESTORED, UNCHANGED, FAILED = "ran", "restored", "up to date", "failed"


@dataclass
class StageOutcome:
    """What became of a stage in one invocation.

    Attributes:
        status: ``ran``, ``restored``, ``up to date`` or ``failed``.
        spool: its run's spool.
        seconds: how long it ran, None if it did not.
        timings: durations and rates that the stage measured.
        run_id: its run in the store, None until it was sent.
        restored_from: the run that made the outputs, for stages that did not run.
    """

    status: str
    spool: Spool
    seconds: float | None = None
    timings: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    restored_from: str | None = None


@dataclass(frozen=True)
class StageRecord:
    """A stage's entry in dvc.lock.

    Attributes:
        deps: MD5 by path.
        outs: MD5 by path.
        params: the parameters that it ran with, by the dotted name that the tracker shows.
        metrics: the metrics files among the outputs.
    """

    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, Any]
    metrics: list[str]


class PipelineRun:
    """One invocation of the pipeline, tracked.

    Args:
        command: what was asked for; the parent run's name.
        tags: further tags, such as the profile.
    """

    def __init__(self, command: str, tags: Mapping[str, str] | None = None):
        self.identity = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self._alive = contextlib.ExitStack()
        _reconcile_parents()
        self._alive.enter_context(exclusive(RUNS / "pipeline" / self.identity / "alive"))
        self.relative = f"pipeline/{self.identity}/spool-parent"
        self.spool = Spool(RUNS / self.relative)
        self.spool.open(command, "pipeline", identity=self.identity)
        self.spool.append({"e": "status", "v": "RUNNING"})
        self._tag({"dvc.stage": "pipeline", **git_state(), **(tags or {}), **_file_digests()})
        self.outcomes: dict[str, StageOutcome] = {}
        self._began = time.perf_counter()

    def __enter__(self) -> PipelineRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.spool.append({"e": "status", "v": "KILLED" if kind is KeyboardInterrupt else "FAILED"})
            self.spool.close()
        self._alive.close()
        home = RUNS / "pipeline" / self.identity
        (home / "alive").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: events that were not sent yet
            home.rmdir()

    def _tag(self, tags: Mapping[str, str]) -> None:
        self.spool.append({"e": "tags", "v": dict(tags)})

    def collect(self) -> None:
        """Find the stages that ran under this parent."""
        for spool in spools_under(RUNS):
            header = spool.header
            if header is None or spool.parent != self.relative:
                continue
            stage = str(header["stage"])
            timings = _timings(stage) if spool.status == "FINISHED" else {}
            status = RAN if spool.status == "FINISHED" else FAILED
            self.outcomes[stage] = StageOutcome(status, spool, timings.pop("seconds", None), timings)

    def record_lock(self, records: Mapping[str, StageRecord]) -> None:
        """Give the stages that ran the digests of dvc.lock; what it records needs its checkpoints no longer."""
        for stage, outcome in self.outcomes.items():
            if outcome.status == RAN and stage in records:
                tags = digest_tags(records[stage].deps, records[stage].outs)
                outcome.spool.open(stage, stage)
                outcome.spool.append({"e": "tags", "v": tags})
                outcome.spool.close()
                with contextlib.suppress(TimeoutError), exclusive(RUNS / stage / "lock", timeout=0):
                    settle(outcome.spool.directory.parent, tags)

    def link(self, stage: str, record: StageRecord, restored: bool) -> None:
        """Record a stage that did not run: a child run that points to the one which made its outputs.

        Args:
            stage: the stage's name.
            record: its entry in dvc.lock.
            restored: whether DVC fetched the outputs from its cache; else they were in place.
        """
        spool = Spool(RUNS / stage / self.identity / "spool-linked")
        spool.open(stage, stage, self.relative)
        status = RESTORED if restored else UNCHANGED
        digests = digest_tags(record.deps, record.outs)
        tags = {"dvc.stage": stage, "isocline.outcome": status, **git_state(), **digests}
        spool.append({"e": "restored", "outs": record.outs})
        spool.append({"e": "tags", "v": tags})
        spool.append({"e": "params", "v": {name: plain(v) for name, v in record.params.items()}})
        for path in record.metrics:
            for name, value, step in _read_metrics(Path(path)):
                spool.append({"e": "metrics", "v": {name: value}, "s": step})
        spool.append({"e": "status", "v": "FINISHED"})
        spool.close()
        self.outcomes[stage] = StageOutcome(status, spool)

    def finish(self, succeeded: bool, sender: Sender) -> float:
        """Write the table of stages, end the run, send everything and write ``reports/runs.js``.

        Returns:
            Seconds since the invocation began.
        """
        seconds = time.perf_counter() - self._began
        for path in ("params.yaml", "dvc.yaml", "dvc.lock"):
            if Path(path).exists():
                self.spool.append(self.spool.keep(Path(path), ""))
        self._tag(_file_digests())
        self.spool.append({"e": "metrics", "v": {"timing/pipeline_seconds": seconds}, "s": None})
        sender.stop()
        self._find_runs(sender)
        table = self.spool.directory / "stages.json"
        write_atomically(table, json.dumps(self.table(), indent=2) + "\n")
        self.spool.append(self.spool.keep(table, ""))
        self._tag({f"stage.{name}": row["run_id"] for name, row in self.table().items() if row["run_id"]})
        self.spool.append({"e": "status", "v": "FINISHED" if succeeded else "FAILED"})
        self.spool.close()
        self._write_page_data(sender)
        self._alive.close()  # collected and written: the spools may go
        sender.send_all(forget=True)
        return seconds

    def table(self) -> dict[str, dict[str, Any]]:
        """Stage to run id, status, seconds, timings and the run that made its outputs."""
        return {
            stage: {
                "run_id": outcome.run_id,
                "status": outcome.status,
                "seconds": outcome.seconds,
                "timings": outcome.timings,
                "restored_from": outcome.restored_from,
            }
            for stage, outcome in sorted(self.outcomes.items())
        }

    def _find_runs(self, sender: Sender) -> None:
        for outcome in self.outcomes.values():
            outcome.run_id = sender.run_id(outcome.spool)
            outcome.restored_from = sender.origin(outcome.run_id) if outcome.status in (RESTORED, UNCHANGED) else None

    def _write_page_data(self, sender: Sender) -> None:
        data = {
            "tracking_uri": sender.shown,
            "ui_url": sender.shown if sender.shown.startswith(("http://", "https://")) else None,
            "experiment_id": sender.experiment_id,
            "parent": sender.run_id(self.spool),
            "stages": self.table(),
        }
        write_atomically(Path("reports/runs.js"), f"window.ISOCLINE_RUNS = {json.dumps(data, indent=2)};\n")


def _reconcile_parents() -> None:
    """Mark earlier invocations that a kill left RUNNING; a live one holds its lock."""
    for path in RUNS.glob("pipeline/*/spool-parent"):
        with contextlib.suppress(TimeoutError), exclusive(path.parent / "alive", timeout=0):
            spool = Spool(path)
            if spool.status == "RUNNING":
                spool.open("pipeline", "pipeline")
                spool.append({"e": "status", "v": "KILLED"})
                spool.close()


def _file_digests() -> dict[str, str]:
    found = {f"digest.{name}": digest(Path(name)) for name in ("params.yaml", "dvc.yaml", "dvc.lock")}
    return {name: md5 for name, md5 in found.items() if md5}


def _timings(stage: str) -> dict[str, float]:
    try:
        document = json.loads((RUNS / "timings" / f"{stage}.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {k: float(v) for k, v in document.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _read_metrics(path: Path) -> Iterable[tuple[str, float, int | None]]:
    try:
        return document_metrics(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return []
