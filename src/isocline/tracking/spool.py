"""An append-only event file: what a stage has to say is on disk before anybody tries to send it.

One JSON object per line. A line is handed to the kernel in one write, so a killed process loses at most the
line it was writing; the torn end is cut off when the file is opened again and skipped when it is read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "RUNS",
    "Spool",
    "exclusive",
    "is_held",
    "milliseconds",
    "read_events",
    "spool_to_continue",
    "spools_under",
    "write_atomically",
]

RUNS = Path(".runs")
"""Where spools, checkpoints and timings live, relative to the working directory."""

EVENTS, STATE, FILES = "events.jsonl", "sent.json", "files"
_SYNC_SECONDS = 2.0
_COPY_LIMIT = 256 * 2**20

Event = dict[str, Any]


def milliseconds() -> int:
    """Now, in milliseconds since the epoch, as MLflow counts."""
    return time.time_ns() // 1_000_000


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def exclusive(path: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold a file lock; it is released when the block ends or the process dies.

    Args:
        path: the lock file, created if absent; it holds the owner's process id for messages.
        timeout: seconds to wait; None waits for ever, 0 does not wait.

    Raises:
        TimeoutError: if another process still holds it; the message names that process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if deadline is None else fcntl.LOCK_NB))
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if deadline is not None and time.monotonic() >= deadline:
                    owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise TimeoutError(f"{path} is held by process {owner}") from None
                time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a living process holds this file lock (see `exclusive`); an absent file is not held, and not made."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return True
    finally:
        os.close(handle)
    return False


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Read whole events from a byte offset on.

    Args:
        path: the event file; an absent file has no events.
        offset: where to start, a value that this function gave before.

    Yields:
        The event and the offset behind it. A line that is not JSON is skipped (a power cut can tear one in the
        middle of a file); a last line without its newline is not read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event, offset


def spools_under(root: Path) -> list[Spool]:
    """All spools below ``root`` (``<stage>/<fingerprint>/spool-<id>``), oldest first."""
    found = [Spool(path.parent) for path in root.glob(f"*/*/spool-*/{EVENTS}")]
    return sorted(found, key=lambda spool: (spool.opened_at, str(spool.directory)))


def spool_to_continue(directory: Path, finished_too: bool = False) -> Spool:
    """The spool in ``directory`` whose run goes on, or a new one: a finished stage run again is a new run.

    Args:
        directory: ``.runs/<stage>/<fingerprint>``.
        finished_too: whether the latest finished run goes on too, since nobody took note of its results.
    """
    known = [spool for path in sorted(directory.glob("spool-*")) if (spool := Spool(path)).header is not None]
    for spool in known:
        if spool.status != "FINISHED":
            return spool
    if finished_too and known:
        return max(known, key=lambda spool: spool.opened_at)
    return Spool(directory / f"spool-{uuid.uuid4().hex[:12]}")


class Spool:
    """The events of one run.

    Attributes:
        directory: where ``events.jsonl``, the sender's ``sent.json`` and copied artefacts live.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._handle: int | None = None
        self._synced = time.monotonic()

    @property
    def path(self) -> Path:
        """The event file."""
        return self.directory / EVENTS

    @property
    def header(self) -> Event | None:
        """The first event: who this run is. None if nothing was written."""
        for event, _ in read_events(self.path):
            return event if event.get("e") == "open" else None
        return None

    @property
    def parent(self) -> str | None:
        """Spool of the parent run, relative to the runs folder; the last one that took this run in."""
        found = None
        for event, _ in read_events(self.path):
            if event.get("e") in ("open", "adopt"):
                found = event.get("parent")
        return found

    @property
    def opened_at(self) -> int:
        """When the run began (milliseconds), 0 if nothing was written."""
        header = self.header
        return int(header["t"]) if header else 0

    @property
    def status(self) -> str | None:
        """The last status written: RUNNING, FINISHED, FAILED or KILLED."""
        last = None
        for event, _ in read_events(self.path):
            if event.get("e") == "status":
                last = str(event["v"])
        return last

    def state(self) -> Event:
        """What the sender remembers: store, run id, acknowledged offset. Empty before the first contact."""
        try:
            state = json.loads((self.directory / STATE).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def save_state(self, state: Event) -> None:
        """Remember what was acknowledged."""
        write_atomically(self.directory / STATE, json.dumps(state, sort_keys=True))

    @property
    def acknowledged(self) -> bool:
        """Whether every event was sent."""
        offset = int(self.state().get("offset", 0))
        return next(read_events(self.path, offset), None) is None

    def open(self, name: str, stage: str, parent: str | None = None, identity: str | None = None) -> None:
        """Begin, or go on after an interruption; the torn end of a killed writer is cut off first.

        Args:
            name: the run's name.
            stage: the pipeline stage, ``pipeline`` for a parent.
            parent: spool of the parent run, relative to the runs folder.
            identity: what the run is recognised by in the store; random if not given.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._cut_torn_end(self._handle)
        if self.header is None:
            os.ftruncate(self._handle, 0)
            identity = identity or uuid.uuid4().hex
            self.append({"e": "open", "id": identity, "name": name, "stage": stage, "parent": parent})

    def forget(self) -> None:
        """Delete a spool that was sent."""
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: checkpoints or another run's events
            self.directory.parent.rmdir()

    @staticmethod
    def _cut_torn_end(handle: int) -> None:
        size = os.fstat(handle).st_size
        end = size
        while end:
            start = max(0, end - 4096)
            newline = os.pread(handle, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            os.ftruncate(handle, end)

    def append(self, event: Event) -> None:
        """Write one event with its time (milliseconds) in one system call; on disk within seconds."""
        if self._handle is None:
            raise ValueError(f"spool {self.directory} is not open")
        event = {**event, "t": event.get("t", milliseconds())}
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        written = os.write(self._handle, line)
        if written != len(line):
            raise OSError(errno.ENOSPC, "disk full; free some space, run again", str(self.path))
        if event["e"] == "status" or time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._handle)
            self._synced = time.monotonic()

    def keep(self, source: Path, folder: str) -> Event:
        """Copy an artefact beside the events, since a later stage run may replace it before it is sent.

        Returns:
            The event to append. Files beyond 256 MiB are referred to, not copied.

        Raises:
            FileNotFoundError: if there is no such file or directory.
        """
        if not source.exists():
            raise FileNotFoundError(f"artifact {source} does not exist")
        size = sum(p.stat().st_size for p in [source, *source.rglob("*")] if p.is_file())
        if size > _COPY_LIMIT:
            return {"e": "artifact", "path": str(source), "folder": folder, "copied": False}
        target = self.directory / FILES / folder / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        return {"e": "artifact", "path": str(Path(FILES) / folder / source.name), "folder": folder, "copied": True}

    def close(self) -> None:
        """Put everything on disk and let go of the file."""
        if self._handle is not None:
            os.fsync(self._handle)
            os.close(self._handle)
            self._handle = None
