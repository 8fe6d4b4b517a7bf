"""``isocline repro``: ``dvc repro`` with a parent run, a warm stage server and a sender beside it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from isocline.app.declaration import Declaration, declarations, load_params
from isocline.app.jobs import JOBS_VARIABLE, job_count
from isocline.app.stage_entry import thread_count, thread_environment
from isocline.tracking.pipeline_run import PipelineRun, StageRecord
from isocline.tracking.provenance import flatten
from isocline.tracking.sender import Sender
from isocline.tracking.stage import PARENT_VARIABLE
from isocline.tracking.yaml_text import load_yaml

__all__ = ["SERVER_VARIABLE", "read_lock", "run_pipeline", "stage_server"]

SERVER_VARIABLE = "ISOCLINE_STAGE_SERVER"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINES = {
    "ran": re.compile(r"^Running stage '([^']+)'"),
    "restored": re.compile(r"^Stage '([^']+)' is cached"),
    "up to date": re.compile(r"^Stage '([^']+)' didn't change"),
}


@dataclass
class _Seen:
    """What DVC said about each stage."""

    stages: dict[str, str] = field(default_factory=dict)

    def read(self, line: bytes) -> None:
        text = _COLOUR.sub("", line.decode(errors="replace")).strip()
        for status, pattern in _LINES.items():
            if match := pattern.match(text):
                self.stages[match[1].rpartition(":")[2]] = status


@contextlib.contextmanager
def stage_server(threads: int, preload: tuple[str, ...] = ()) -> Iterator[str]:
    """Run a warm stage server for the length of the block; it dies with this process.

    Args:
        threads: what the numeric libraries are loaded with, the same as in a stage of its own process.
        preload: modules to import instead of the usual ones.

    Yields:
        The path of its socket.
    """
    folder = tempfile.mkdtemp(prefix="isocline-")
    address = str(Path(folder) / "stages")
    process = subprocess.Popen(
        [sys.executable, "-m", "isocline.app.stage_server", address, *preload],
        stdin=subprocess.PIPE,
        env={**os.environ, **thread_environment(threads)},
        start_new_session=True,
    )
    try:
        while not Path(address).exists() and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        yield address
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def read_lock(declared: Mapping[str, Declaration], root: Path | None = None) -> dict[str, StageRecord]:
    """The stages of dvc.lock that dvc.yaml still declares."""
    path = (root or Path()) / "dvc.lock"
    try:
        stages = (load_yaml(path.read_text()) or {}).get("stages", {})
    except FileNotFoundError:
        return {}
    return {name: _record(entry, declared[name]) for name, entry in stages.items() if name in declared}


def _record(entry: Mapping[str, Any], declared: Declaration) -> StageRecord:
    def digests(section: str) -> dict[str, str]:
        return {row["path"]: str(row["md5"]) for row in entry.get(section) or [] if "md5" in row}

    item = declared.name.partition("@")[2]
    params = flatten((entry.get("params") or {}).get("params.yaml") or {})
    shown = {name.partition(f".{item}.")[2] or name if item else name: value for name, value in params.items()}
    return StageRecord(digests("deps"), digests("outs"), shown, declared.metrics)


def _show(source: IO[bytes], seen: _Seen) -> None:
    """Pass DVC's output on as it comes and read the lines that say what it does."""
    out = sys.stdout.buffer if hasattr(sys.stdout, "buffer") else None
    rest = b""
    while block := source.read1(65536):  # type: ignore[attr-defined]
        if out is not None:
            out.write(block)
            out.flush()
        else:
            sys.stdout.write(block.decode(errors="replace"))
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            seen.read(line)
    seen.read(rest)


def _run_dvc(argv: list[str], environment: Mapping[str, str], seen: _Seen) -> int:
    """Run ``dvc repro``; the ``python`` of dvc.yaml is this one, whether or not its environment is activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    process = subprocess.Popen(
        [sys.executable, "-m", "isocline.app.dvc_process", "repro", *argv],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment, "PATH": path, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    while True:
        try:
            _show(process.stdout, seen)
            return process.wait()
        except KeyboardInterrupt:  # the terminal interrupts DVC and its stage too: wait for them to end well
            continue


def run_pipeline(argv: list[str], jobs: int | None = None) -> int:
    """Bring the pipeline up to date, tracked.

    Args:
        argv: arguments of ``dvc repro``.
        jobs: how many stages run side by side at most; None for what the machine has room for.

    Returns:
        DVC's exit code.

    Raises:
        FileNotFoundError: if params.yaml or dvc.yaml is missing.
        ValueError: if one of them, ``jobs`` or ``MLFLOW_TRACKING_URI`` is wrong.
    """
    params = load_params()
    declared = declarations(params=params)
    sender, seen = Sender(), _Seen()
    threads = thread_count(params)
    jobs = job_count(params, threads, jobs)
    if jobs > 1:
        print(f"up to {jobs} stages side by side, threads each: {threads}", flush=True)
    name = " ".join(["isocline repro", *argv])
    with PipelineRun(name, {"isocline.profile": str(_profile(params)), "isocline.jobs": str(jobs)}) as run:
        sender.start(interval=5.0)
        with stage_server(threads) as address:
            environment = {PARENT_VARIABLE: run.relative, SERVER_VARIABLE: address, JOBS_VARIABLE: str(jobs)}
            code = _run_dvc(argv, environment, seen)
        records = read_lock(declared)
        run.collect()
        run.record_lock(records)
        for stage, status in seen.stages.items():
            if status != "ran" and stage in records:
                run.link(stage, records[stage], restored=status == "restored")
        seconds = run.finish(code == 0, sender)
    counts = ", ".join(f"{_count(run, status)} {status}" for status in ("ran", "restored", "up to date", "failed"))
    print(f"\n{counts}; {seconds:.0f} s in all.")
    print(f"Runs: `isocline ui` (or `make ui`), experiment `isocline`, run `{name}` of {sender.shown}")
    return code


def _profile(params: Mapping[str, Any]) -> Any:
    profile = params.get("profile", "unknown")
    return profile.get("name", "unknown") if isinstance(profile, Mapping) else profile


def _count(run: PipelineRun, status: str) -> int:
    return sum(outcome.status == status for outcome in run.outcomes.values())
