"""The run of one pipeline stage, as the stage sees it: say what happened, keep checkpoints, be interrupted safely."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isocline.tracking.provenance import digest as path_digest
from isocline.tracking.provenance import (
    digest_tags,
    digests,
    document_metrics,
    fingerprint,
    flatten,
    git_state,
    plain,
)
from isocline.tracking.scratch import is_marked, mark, remove_scratch, settle, unmark
from isocline.tracking.spool import (
    RUNS,
    Event,
    Spool,
    exclusive,
    read_events,
    spool_to_continue,
    write_atomically,
)
from isocline.tracking.system_metrics import SystemSampler

__all__ = ["PARENT_VARIABLE", "StageRun", "open_stage"]

PARENT_VARIABLE = "ISOCLINE_PARENT"
"""Environment variable: spool of the parent run, relative to ``.runs``; set by ``isocline repro``."""

_STALE_WAIT = 5.0


class StageRun:
    """What a stage may say about itself; every call is on disk when it returns.

    Attributes:
        stage: the stage's name in dvc.yaml, for example ``train@flow``.
        directory: the stage's own scratch folder; checkpoints live here until the results are recorded.
        resumed: whether this continues an interrupted run of the same parameters and inputs.
        inputs: digests of the stage's dependencies by path.
    """

    def __init__(self, stage: str, directory: Path, spool: Spool, inputs: Mapping[str, str]):
        self.stage = stage
        self.directory = directory
        self.inputs = dict(inputs)
        self.resumed = False
        self._spool = spool
        self._lock = threading.Lock()
        self._logged: dict[tuple[str, int | None], float] = {}
        self._timings: dict[str, float] = {}

    def _append(self, event: Event) -> None:
        with self._lock:
            self._spool.append(event)

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters; nested mappings become dotted names."""
        self._append({"e": "params", "v": {name: plain(value) for name, value in flatten(values).items()}})

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record one number; see `metrics`."""
        self.metrics({name: value}, step)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers, at a step or without one. A step that was recorded before an interruption stays as it was.

        Raises:
            ValueError: if a value is not finite: the tracker would store another number than the one measured.
            TypeError: if a value is not a number.
        """
        checked: dict[str, float] = {}
        for name, value in values.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise TypeError(f"metric {name!r} of stage {self.stage} is {value!r}; give a number") from None
            if not math.isfinite(number):
                at = "" if step is None else f" at step {step}"
                raise ValueError(
                    f"metric {name!r} of stage {self.stage} is {number}{at}; "
                    "lower the learning rate or look at the data, then run again"
                )
            key = (name, None if step is None else int(step))
            known = self._logged.get(key)
            if known is None or (step is None and known != number):
                checked[name] = self._logged[key] = number
        if checked:
            self._append({"e": "metrics", "v": checked, "s": None if step is None else int(step)})

    def document(self, values: Mapping[str, Any]) -> None:
        """Record the content of a metrics file; whole numbers in it are steps (see `provenance.document_metrics`)."""
        steps: dict[int | None, dict[str, float]] = {}
        for name, value, step in document_metrics(values):
            steps.setdefault(step, {})[name] = value
        for step, found in steps.items():
            self.metrics(found, step)

    def tag(self, name: str, value: object) -> None:
        """Record a tag. ``isocline.teacher`` also links the run to the one that trained ``data/models/<teacher>``."""
        self._append({"e": "tags", "v": {name: str(value)}})
        if name == "isocline.teacher":
            path = f"data/models/{value}"
            md5 = self.inputs.get(path) or path_digest(Path(path))
            self._append({"e": "teacher", "name": str(value), "path": path, "digest": md5})

    def artifact(self, path: str | os.PathLike[str], folder: str = "") -> None:
        """Record a file or a directory; it is copied now and sent later.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        self._append(self._spool.keep(Path(path), folder))

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record a data set that the stage read: its name, content digest, path and role (train, test, …)."""
        self._append({"e": "dataset", "name": name, "digest": digest, "source": source, "context": context})

    def dataset_file(self, path: str | os.PathLike[str], context: str) -> None:
        """Record a data file or directory by its own MD5.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        found = path_digest(Path(path))
        if found is None:
            raise FileNotFoundError(f"data {path} does not exist; run `dvc repro` to make it, or `dvc pull`")
        self.dataset(Path(path).with_suffix("").as_posix(), found, str(path), context)

    def model(self, name: str, path: str | os.PathLike[str], digest: str | None = None) -> None:
        """Record a trained model: an entry that points to the DVC path and its MD5; DVC owns the weights."""
        found = digest or path_digest(Path(path))
        self._append({"e": "model", "name": name, "path": Path(path).as_posix(), "digest": found})

    def timing(self, name: str, value: float) -> None:
        """Record a duration (seconds) or a rate: to the tracker and ``.runs/timings``, never to a DVC output."""
        self.metrics({f"timing/{name}": value})
        self._timings[name] = float(value)

    def outputs(self, paths: list[str]) -> None:
        """Record the digests of what the stage wrote, by which later runs find this one."""
        made = digests(paths)
        self._append({"e": "tags", "v": digest_tags({}, made)})
        mark(self.directory, digest_tags(self.inputs, made))

    def status(self, value: str) -> None:
        """Record RUNNING, FINISHED, FAILED or KILLED."""
        self._append({"e": "status", "v": value})

    def _take_up(self) -> None:
        """Remember which points an interrupted run recorded, so that repeating its last steps adds none."""
        for event, _ in read_events(self._spool.path):
            if event.get("e") == "metrics":
                self._logged.update({(name, event["s"]): value for name, value in event["v"].items()})

    def _first_system_step(self) -> int:
        return 1 + max((step or 0 for name, step in self._logged if name.startswith("system/")), default=-1)

    def _write_timings(self, seconds: float) -> None:
        document = {"stage": self.stage, "seconds": seconds, "resumed": self.resumed, **self._timings}
        write_atomically(RUNS / "timings" / f"{self.stage}.json", json.dumps(document, indent=2) + "\n")


def _reconcile(stage_directory: Path, current: Path) -> None:
    """Mark runs of this stage that a kill left RUNNING, and drop the scratch of finished ones that this one replaces.

    The caller holds the stage's lock, so none is alive.
    """
    for directory in stage_directory.iterdir():
        if directory != current and is_marked(directory):
            remove_scratch(directory)
    for path in stage_directory.glob("*/spool-*"):
        spool = Spool(path)
        if path.parent != current and spool.status == "RUNNING":
            spool.open(stage_directory.name, stage_directory.name)
            spool.append({"e": "status", "v": "KILLED"})
            spool.close()


@contextlib.contextmanager
def open_stage(
    stage: str,
    params: Mapping[str, Any],
    deps: list[str],
    outs: list[str] | None = None,
    logged: Mapping[str, Any] | None = None,
    system_interval: float = 10.0,
) -> Iterator[StageRun]:
    """Open the run of a stage; a run of the same fingerprint that was interrupted is continued.

    On success the run is FINISHED, and its checkpoints are removed once dvc.lock records the outputs: if it is opened
    again before that, the same run goes on from the last checkpoint. On an exception it is FAILED and they are kept;
    after a kill it stays RUNNING until the stage is opened again.

    Args:
        stage: the stage's name in dvc.yaml.
        params: the parameters that the stage declares; part of the fingerprint.
        deps: the paths that it declares; their digests are part of the fingerprint.
        outs: the paths that it writes; their digests are recorded at the end.
        logged: the parameters as the tracker should show them; ``params`` if not given.
        system_interval: seconds between samples of the machine's use.

    Yields:
        The stage's run.

    Raises:
        RuntimeError: if the same stage is running already.
    """
    inputs = digests(deps)
    directory = RUNS / stage / fingerprint(stage, params, inputs)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(RUNS / stage / "lock", timeout=_STALE_WAIT))
        except TimeoutError as error:
            raise RuntimeError(f"stage {stage} is running already ({error}); wait for it or stop it") from None
        _reconcile(RUNS / stage, directory)
        spool = spool_to_continue(directory, finished_too=not settle(directory))
        resumed = spool.header is not None
        if not resumed:  # a checkpoint without its run is never taken up
            remove_scratch(directory)
        parent = os.environ.get(PARENT_VARIABLE)
        spool.open(stage, stage, parent)
        stack.callback(spool.close)
        run = StageRun(stage, directory, spool, inputs)
        run.resumed = resumed
        run._take_up()
        run.status("RUNNING")
        unmark(directory)
        run.params(params if logged is None else logged)
        tags = {"dvc.stage": stage, "isocline.fingerprint": directory.name, **git_state(), **digest_tags(inputs, {})}
        if resumed:
            run._append({"e": "adopt", "parent": parent})
        run._append({"e": "tags", "v": tags})
        yield from _watched(run, outs or [], system_interval)


def _watched(run: StageRun, outs: list[str], interval: float) -> Iterator[StageRun]:
    """Hand the run to the stage's body and record how it ended."""
    sampler = SystemSampler(run.metrics, interval, run._first_system_step())
    sampler.start()
    began = time.perf_counter()
    try:
        yield run
        sampler.stop()
        run.outputs(outs)
        run.timing("stage_seconds", time.perf_counter() - began)
        run.status("FINISHED")
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk may be what failed; the stage's own error matters more
            sampler.stop()
            if not isinstance(error, GeneratorExit):
                run.tag("isocline.error", _one_line(error))
            run.status("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run._write_timings(time.perf_counter() - began)
    settle(run.directory, recorded={})  # DVC looks at the outputs only now


def _one_line(error: BaseException) -> str:
    return " ".join("".join(traceback.format_exception_only(error)).split())[:1000]
