"""Several stages of one ``dvc repro`` side by side, which DVC itself does not do (dvc#755).

What runs side by side are the stages' commands, during which DVC gives its lock of the repository away in any case. All
of DVC's own work (what is stale, hashes, cache, dvc.lock) stays one at a time under one turn, so that it sees what it
would see in a run of one stage after another. A stage's results depend on its number of threads, not on its neighbours.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO, Any, Generic, TypeVar

from dvc.repo import reproduce as dvc_reproduce
from dvc.stage import run as dvc_run
from dvc.stage.exceptions import StageCmdFailedError

from isocline.app.dvc_lock import LOCK, arrange, locked_names

__all__ = ["Schedule", "SideBySide", "expected"]

Node = TypeVar("Node", bound=Hashable)


class Schedule(Generic[Node]):
    """Hands out nodes of a directed acyclic graph, each after those that it needs, the longest way to the end first.

    Args:
        plan: all nodes; of two with equally long ways the earlier one goes first.
        needs: for each node those that come before it; what is not in the plan counts as done.
        seconds: how long each takes; 1 where it is not known.
    """

    def __init__(
        self, plan: Sequence[Node], needs: Mapping[Node, Collection[Node]], seconds: Mapping[Node, float] | None = None
    ) -> None:
        known = set(plan)
        self._left = {node: {other for other in needs.get(node, ()) if other in known} for node in plan}
        self._followers: dict[Node, list[Node]] = {node: [] for node in plan}
        for node, before in self._left.items():
            for other in before:
                self._followers[other].append(node)
        self._way: dict[Node, float] = {}
        for node in plan:
            self._measure(node, seconds or {})

    def _measure(self, start: Node, seconds: Mapping[Node, float]) -> None:
        stack = [start]
        while stack:
            node = stack[-1]
            unknown = [other for other in self._followers[node] if other not in self._way]
            if unknown:
                stack += unknown
                continue
            longest = max((self._way[other] for other in self._followers[node]), default=0.0)
            self._way[stack.pop()] = seconds.get(node, 1.0) + longest

    def take(self) -> Node | None:
        """Return the next node that may start and was not handed out yet, None if there is none now."""
        ready = [node for node, before in self._left.items() if not before]
        if not ready:
            return None
        node = max(ready, key=self._way.__getitem__)  # the first of equals
        del self._left[node]
        return node

    def finish(self, node: Node) -> None:
        """Note that a node is done: what waited for it alone may start."""
        for other in self._followers[node]:
            self._left.get(other, set()).discard(node)

    def skip(self, nodes: Collection[Node]) -> None:
        """Leave out nodes that were not handed out."""
        for node in nodes:
            self._left.pop(node, None)


@dataclass
class _Round:
    """One call of DVC's loop: what is left, what runs, what became of it."""

    plan: list[Any]
    graph: Any
    on_error: str
    force_downstream: bool
    forced: dict[Any, bool]
    schedule: Schedule[Any]
    running: dict[Future[Any], Any] = field(default_factory=dict)
    done: dict[Any, Any] = field(default_factory=dict)
    failed: dict[Any, Exception] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def stopped(self) -> bool:
        return self.interrupted or bool(self.failed and self.on_error == "fail")

    def settle(self, future: Future[Any]) -> None:
        """Take note of what became of a stage."""
        stage, error = self.running.pop(future), future.exception()
        if isinstance(error, Exception):
            self.failed[stage] = error
            if not self.stopped:
                self.schedule.skip(dvc_reproduce.handle_error(self.graph, self.on_error, error, stage))
            elif self.running:
                names = ", ".join(sorted(other.addressing for other in self.running.values()))
                print(f"{stage.addressing} failed; waiting for {names} to end", flush=True)
        else:
            self.done[stage] = future.result()
            if self.force_downstream and (self.done[stage] or self.forced[stage]):
                self.forced.update(dict.fromkeys(self.graph.predecessors(stage), True))
        self.schedule.finish(stage)

    def result(self) -> list[Any]:
        """Return the reproduced stages in the order of the plan, or raise what went wrong."""
        if self.interrupted:
            raise KeyboardInterrupt
        if self.failed and self.on_error != "ignore":
            first = next(iter(self.failed.values()))
            dvc_reproduce._raise_error(first if self.on_error == "fail" else None, *self.failed)
        return [self.done[stage] for stage in self.plan if self.done.get(stage)]


class SideBySide:
    """Stands in for DVC's loop over stages.

    Args:
        jobs: how many stages run at a time, at least one.
        seconds: how long stages took before, by name: the longest way to the end starts first.
    """

    def __init__(self, jobs: int, seconds: Mapping[str, float] | None = None) -> None:
        self._jobs = jobs
        self._seconds = dict(seconds or {})
        self._turn = threading.Lock()
        self._one_after_another: Callable[..., list[Any]] = dvc_reproduce._reproduce

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Have ``dvc repro`` in this process go through here for the length of the block."""
        before = dvc_reproduce._reproduce, dvc_run._run
        dvc_reproduce._reproduce, dvc_run._run = self.reproduce, self._command
        try:
            yield
        finally:
            dvc_reproduce._reproduce, dvc_run._run = before

    def reproduce(
        self,
        stages: list[Any],
        graph: Any = None,
        force_downstream: bool = False,
        on_error: str = "fail",
        force: bool = False,
        repro_fn: Callable[..., Any] = dvc_reproduce._reproduce_stage,
        **kwargs: Any,
    ) -> list[Any]:
        """Bring stages up to date, with the meaning of DVC's own function of this signature.

        After a failure no further stage starts (``on_error`` "fail") or none that needs the failed one ("keep-going");
        those that run are waited for, so that nothing of theirs is lost.

        Returns:
            The stages that were reproduced, in the order of the plan.

        Raises:
            ReproductionError: if stages failed.
            KeyboardInterrupt: after the stages that ran have ended.
        """
        if graph is None or len(stages) < 2 or kwargs.get("dry") or kwargs.get("interactive"):
            more = {"force_downstream": force_downstream, "on_error": on_error, "force": force, "repro_fn": repro_fn}
            with self._turn:
                return self._one_after_another(stages, graph=graph, **more, **kwargs)
        needs = {stage: list(graph.successors(stage)) for stage in stages}  # DVC's edges lead to inputs
        seconds = expected(self._seconds, [_name(stage) for stage in stages])
        forced = dict.fromkeys(stages, force)
        state = _Round(
            stages,
            graph,
            on_error,
            force_downstream,
            forced,
            Schedule(stages, needs, dict(zip(stages, seconds, strict=True))),
        )
        repo = stages[0].repo

        def work(stage: Any) -> Any:
            with self._turn_of(repo):
                return repro_fn(stage, upstream=needs[stage], force=forced[stage], **kwargs)

        lock = Path(repo.root_dir) / LOCK
        known = locked_names(lock)
        repo.lock.unlock()
        try:
            self._run_all(state, work)
        finally:
            repo.lock.lock()
            arrange(lock, known, [_name(stage) for stage in stages])
        return state.result()

    def _run_all(self, state: _Round, work: Callable[[Any], Any]) -> None:
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="stage") as pool:
            while True:
                while not state.stopped and len(state.running) < self._jobs:
                    stage = state.schedule.take()
                    if stage is None:
                        break
                    state.running[pool.submit(work, stage)] = stage
                if not state.running:
                    return
                try:
                    ended, _ = wait(state.running, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt:  # the terminal interrupts the stages too: they end by themselves
                    state.interrupted = True
                    continue
                for future in ended:
                    state.settle(future)

    @contextlib.contextmanager
    def _turn_of(self, repo: Any) -> Iterator[None]:
        """The turn, and the lock of the repository with it."""
        with self._turn:
            repo.lock.lock()
            try:
                yield
            finally:
                repo.lock.unlock()

    def _command(self, executable: str | None, command: str, **kwargs: Any) -> None:
        """Run a stage's command; meanwhile, since DVC has unlocked the repository here, another stage has the turn."""
        name = kwargs["env"]["DVC_STAGE"].rpartition(":")[2]
        self._turn.release()
        try:
            process = subprocess.Popen(
                dvc_run._make_cmd(executable, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
            )
            pipes = [(process.stdout, 1), (process.stderr, 2)]
            relays = [threading.Thread(target=_relay, args=(pipe, to, name), daemon=True) for pipe, to in pipes]
            for relay in relays:
                relay.start()
            code = process.wait()
            for relay in relays:
                relay.join()
        finally:
            self._turn.acquire()
        if code != 0:
            raise StageCmdFailedError(command, code)


def expected(known: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """How long stages will take: as before, else as others of their kind (``train`` of ``train@flow``) on average.

    Returns:
        Seconds; the average of all known ones for a new kind, 1 for all if none is known.
    """
    kinds: dict[str, list[float]] = {}
    for name, seconds in known.items():
        kinds.setdefault(name.partition("@")[0], []).append(seconds)
    average = fmean(known.values()) if known else 1.0

    def guess(name: str) -> float:
        others = kinds.get(name.partition("@")[0])
        return known[name] if name in known else fmean(others) if others else average

    return [guess(name) for name in names]


def _name(stage: Any) -> str:
    return str(stage.addressing).rpartition(":")[2]


def _relay(pipe: IO[bytes], descriptor: int, name: str) -> None:
    """Pass on whole lines, each with the stage's name before it."""
    mark = f"{name} | ".encode()
    with pipe:
        for line in pipe:
            text = line.rstrip(b"\r\n").rpartition(b"\r")[2]  # of a line that was written over, the last state
            data = mark + text + b"\n" if text else b""
            while data:
                data = data[os.write(descriptor, data) :]
