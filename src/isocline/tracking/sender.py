"""Replays spools to MLflow: lazily, in batches, any number of times without doubling anything.

What was acknowledged is remembered beside the spool. A repeated metric carries the same time, step and value, a
repeated tag or parameter the same value, and runs and models are recognised by what they were made from, so that a
sender that died between sending and remembering only repeats itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isocline.tracking.limits import (
    METRICS_AT_ONCE,
    PARAM_LIMIT,
    PARAMS_AT_ONCE,
    TAG_LIMIT,
    TAGS_AT_ONCE,
    allowed,
    batches,
    shorten,
)
from isocline.tracking.scratch import settle
from isocline.tracking.spool import RUNS, Event, Spool, exclusive, is_held, read_events, spools_under
from isocline.tracking.store import (
    checked_uri,
    connect,
    is_denied,
    is_refused,
    tracking_uri,
    without_credentials,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Sender", "SyncReport", "sync"]

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(frozen=True)
class SyncReport:
    """What a pass over the spools did.

    Attributes:
        sent: spools whose every event is in the store.
        pending: spools that still hold events.
        error: why, in one line; None if nothing went wrong.
    """

    sent: int
    pending: int
    error: str | None = None


class Sender:
    """Sends the spools below a runs folder to one store.

    Args:
        root: the runs folder.
        uri: the store; ``MLFLOW_TRACKING_URI`` or the SQLite default if not given.
        warn: told once when the store cannot be reached, and of each event that it refuses.
    """

    def __init__(self, root: Path = RUNS, uri: str | None = None, warn: Callable[[str], None] | None = None):
        self.root = root.absolute()
        self.uri = checked_uri(uri or tracking_uri())
        self.shown = without_credentials(self.uri)
        self.experiment_id: str | None = None
        self._client: MlflowClient | None = None
        self._warn = warn or (lambda text: print(text, file=sys.stderr, flush=True))
        self._warned = False
        self._busy = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def client(self) -> MlflowClient:
        """The store's client, connected at first use."""
        if self._client is None:
            self._client, self.experiment_id = connect(self.uri)
        return self._client

    def send_all(self, forget: bool = False) -> SyncReport:
        """Send what there is, once.

        Args:
            forget: delete spools of finished runs whose every event was sent; see `_forget`.
        """
        sent: list[Spool] = []
        waiting: list[Spool] = []
        error: str | None = None
        with self._busy:
            for spool in spools_under(self.root):
                if error is None and not self._has_sent(spool):
                    error = self._try(spool)
                (sent if self._has_sent(spool) else waiting).append(spool)
            if forget:
                needed = {spool.parent for spool in waiting}
                for spool in sent:
                    if spool.directory.relative_to(self.root).as_posix() not in needed:
                        self._forget(spool)
        return SyncReport(len(sent), len(waiting), error)

    def _has_sent(self, spool: Spool) -> bool:
        return spool.acknowledged and spool.state().get("uri") == self.shown

    def _forget(self, spool: Spool) -> None:
        """Delete a spool that nobody needs: not its stage, not a parent that will collect it, not DVC's next run."""
        header = spool.header
        if header is None:
            return
        stage = str(header["stage"])
        parent = spool.directory if stage == "pipeline" else self.root / (spool.parent or "none")
        with contextlib.ExitStack() as stack:
            try:
                for lock in (self.root / stage / "lock", spool.directory / "lock"):
                    stack.enter_context(exclusive(lock, timeout=0))
            except TimeoutError:
                return
            over = _is_over(spool) and self._has_sent(spool) and not is_held(parent.parent / "alive")
            if over and settle(spool.directory.parent):
                spool.forget()

    def _try(self, spool: Spool) -> str | None:
        try:
            self.send(spool)
        except Exception as error:
            reason = " ".join(without_credentials(str(error)).split())[:200] or type(error).__name__
            if not self._warned:
                self._warned = True
                state = "refuses access" if is_denied(error) else "cannot be reached"
                self._warn(
                    f"tracking: {self.shown} {state} ({reason}); everything is kept in .runs and will be sent later"
                )
            self._client = None
            return reason
        self._warned = False
        return None

    def send(self, spool: Spool) -> str | None:
        """Send one spool, its parent first.

        Returns:
            The run's id, None if there is nothing to send.
        """
        header = spool.header
        if header is None:
            return None
        with exclusive(spool.directory / "lock"):
            if spool.header is None:  # deleted meanwhile
                return None
            state = spool.state()
            if state.get("uri") != self.shown or not self._exists(state.get("run_id")):
                state = {"uri": self.shown, "offset": 0, "run_id": self._run_for(header)}
                spool.save_state(state)
            for events, offset in batches(read_events(spool.path, int(state["offset"]))):
                self._replay(state["run_id"], events, spool)
                state["offset"] = offset
                if spool.header is None:  # deleted meanwhile; do not bring it back
                    return str(state["run_id"])
                spool.save_state(state)
            return str(state["run_id"])

    def run_id(self, spool: Spool) -> str | None:
        """The run that a spool was sent as, None if it has not been."""
        state = spool.state()
        return state.get("run_id") if state.get("uri") == self.shown else None

    def origin(self, run_id: str | None) -> str | None:
        """The run that made the outputs of a linked run; None if unknown or the store is away."""
        if run_id is None:
            return None
        try:
            found = self.client.get_run(run_id).data.tags.get("isocline.restored_from")
        except Exception:  # the table goes without it
            return None
        return None if found == "unknown" else found

    def _exists(self, run_id: str | None) -> bool:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return False
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(run.info.lifecycle_stage == "active")

    def _run_for(self, header: Event) -> str:
        client = self.client
        assert self.experiment_id is not None
        found = client.search_runs([self.experiment_id], f"tags.`isocline.spool` = '{header['id']}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {
            "isocline.spool": header["id"],
            "mlflow.source.name": header["stage"],
            "mlflow.source.type": "PROJECT",
            "mlflow.user": os.environ.get("USER") or "isocline",
        }
        parent = self._parent(header.get("parent"))
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(self.experiment_id, start_time=header["t"], tags=tags, run_name=header["name"])
        return str(run.info.run_id)

    def _parent(self, relative: str | None) -> str | None:
        return None if relative is None else self.send(Spool(self.root / relative))

    def _replay(self, run_id: str, events: list[Event], spool: Spool) -> None:
        try:
            self._send_events(run_id, events, spool)
        except Exception as error:
            if not is_refused(error):
                raise
            if len(events) > 1:
                for event in events:
                    self._replay(run_id, [event], spool)
                return
            what = ", ".join(map(str, events[0]["v"])) if isinstance(events[0].get("v"), dict) else ""
            self._warn(
                f"tracking: {spool.directory}: the store refuses {events[0]['e']} {what}".rstrip()[:300]
                + f", which it will go without: {without_credentials(str(error))[:200]}"
            )

    def _send_events(self, run_id: str, events: list[Event], spool: Spool) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics, params, tags = [], {}, {}
        for event in events:
            if event["e"] == "metrics":
                step = event["s"] or 0
                metrics += [Metric(allowed(name), value, event["t"], step) for name, value in event["v"].items()]
            elif event["e"] == "params":
                params.update(event["v"])
            elif event["e"] == "tags":
                tags.update(event["v"])
            else:
                self._send_single(run_id, event, spool)
        chosen = [Param(allowed(key), shorten(value, PARAM_LIMIT)) for key, value in params.items()]
        marks = [RunTag(allowed(key), shorten(value, TAG_LIMIT)) for key, value in tags.items()]
        while metrics or chosen or marks:
            self.client.log_batch(
                run_id, metrics[:METRICS_AT_ONCE], chosen[:PARAMS_AT_ONCE], marks[:TAGS_AT_ONCE], synchronous=True
            )
            del metrics[:METRICS_AT_ONCE], chosen[:PARAMS_AT_ONCE], marks[:TAGS_AT_ONCE]

    def _send_single(self, run_id: str, event: Event, spool: Spool) -> None:
        kind = event["e"]
        if kind == "status":
            over = None if event["v"] == "RUNNING" else event["t"]
            status = "RUNNING" if over is None else event["v"]
            self.client.set_terminated(run_id, status, over) if over else self.client.update_run(run_id, status)
        elif kind == "artifact":
            path = spool.directory / event["path"] if event["copied"] else Path(event["path"])
            self._send_artifact(run_id, path, event["folder"])
        elif kind == "dataset":
            self._send_dataset(run_id, event)
        elif kind == "model":
            self._send_model(run_id, event)
        elif kind == "teacher":
            origin = self.producer({event["path"]: event["digest"]}) if event["digest"] else None
            self.client.set_tag(run_id, "isocline.teacher_run_id", origin or "unknown")
        elif kind == "restored":
            self._send_restored(run_id, event)
        elif kind == "adopt":
            parent = self._parent(event["parent"])
            if parent:
                self.client.set_tag(run_id, "mlflow.parentRunId", parent)

    def _send_artifact(self, run_id: str, path: Path, folder: str) -> None:
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), "/".join(p for p in (folder, path.name) if p))
        elif path.exists():
            self.client.log_artifact(run_id, str(path), folder or None)

    def _send_dataset(self, run_id: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": event["source"]})
        dataset = Dataset(
            name=event["name"][:500],
            digest=event["digest"][:36],
            source_type="local",
            source=source,
        )
        tags = [InputTag("mlflow.data.context", event["context"])]
        self.client.log_inputs(run_id, [DatasetInput(dataset, tags)])

    def _send_model(self, run_id: str, event: Event) -> None:
        from mlflow.entities import LoggedModelOutput

        assert self.experiment_id is not None
        query = f"name = '{event['name']}' AND source_run_id = '{run_id}'"
        known = self.client.search_logged_models([self.experiment_id], query, max_results=50)
        digest = event["digest"] or "unknown"
        if any(model.tags.get("isocline.md5") == digest for model in known):
            return
        tags = {"mlflow.model.isExternal": "true", "isocline.path": event["path"], "isocline.md5": digest}
        model = self.client.create_logged_model(
            self.experiment_id, name=event["name"], source_run_id=run_id, tags=tags, model_type="isocline"
        )
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])

    def producer(self, outputs: dict[str, str]) -> str | None:
        """The latest finished run that itself made these outputs (MD5 by path), None if the store has none."""
        client = self.client
        assert self.experiment_id is not None
        if not outputs:
            return None
        clauses = [f"tags.`out.{path}` = '{md5}'" for path, md5 in sorted(outputs.items())]
        query = " AND ".join([*clauses, "attributes.status = 'FINISHED'"])
        for run in client.search_runs([self.experiment_id], query, max_results=200, order_by=["start_time DESC"]):
            if "isocline.restored_from" not in run.data.tags:
                return str(run.info.run_id)
        return None

    def _send_restored(self, run_id: str, event: Event) -> None:
        self.client.set_tag(run_id, "isocline.restored_from", self.producer(event["outs"]) or "unknown")

    def start(self, interval: float = 1.0) -> None:
        """Follow the spools in a thread until `stop`; a store that is away is tried again after growing pauses."""

        def follow() -> None:
            pause = _FIRST_PAUSE
            while not self._over.is_set():
                try:
                    failed = self.send_all().error is not None
                except Exception as error:  # a sender never stops the work that it reports on
                    self._warn(f"tracking: {error}")
                    return
                pause = min(2 * pause, _LONGEST_PAUSE) if failed else _FIRST_PAUSE
                self._over.wait(pause if failed else interval)

        self._thread = threading.Thread(target=follow, name="sender", daemon=True)
        self._thread.start()

    def stop(self, forget: bool = False, timeout: float = 60.0) -> SyncReport:
        """End the thread and send what is left.

        Args:
            forget: delete finished spools that were sent.
            timeout: seconds to wait for the thread.
        """
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return self.send_all(forget)


def _is_over(spool: Spool) -> bool:
    """Whether nothing can be added: a failed stage may be continued, a parent may not; the raw parent is shared."""
    header = spool.header or {}
    if header.get("stage") == "pipeline":
        return spool.status not in (None, "RUNNING") and not str(header["id"]).startswith("raw-")
    return spool.status == "FINISHED"


def sync(root: Path = RUNS, uri: str | None = None, seconds: float = 0.0) -> SyncReport:
    """Send everything that is still on disk and forget what was sent.

    Args:
        root: the runs folder.
        uri: the store.
        seconds: how long to try again if the store is away.
    """
    sender, deadline = Sender(root, uri), time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        report = sender.send_all(forget=True)
        if report.error is None or time.monotonic() + pause > deadline:
            return report
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
