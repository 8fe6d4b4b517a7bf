"""A process that has the heavy libraries loaded and forks a child for each stage.

It imports when the first launcher comes, which waits in the socket's queue: a pipeline that is up to date pays for
nothing. It computes nothing, starts no OpenMP thread and never touches CUDA: a fork would inherit them broken. The
project's own modules are not kept: each child imports them afresh, from the working directory's ``src`` if any.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PRELOAD", "die_with_parent", "main", "serve"]

PRELOAD = (
    "torch",
    "numpy",
    "scipy.linalg",
    "scipy.optimize",
    "yaml",
    "omegaconf",
    "hydra.utils",
    "psutil",
    "rich.progress",
    "safetensors.torch",
    "tokenizers",
    "threadpoolctl",
    "torchmetrics",
    "pytorch_lightning",
)
"""What is imported before the first fork; a library that is absent is left out."""

ACCEPTED = b"A"
_REQUEST_SECONDS = 10.0
_SET_DEATH_SIGNAL = 1


@dataclass
class _Child:
    connection: socket.socket
    pid: int


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; where it cannot, a thread looks twice a second."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One request: the standard streams of the launcher and what to run.

    Raises:
        ConnectionError: if the launcher went away or sent something else.
    """
    connection.settimeout(_REQUEST_SECONDS)
    data, streams, _, _ = socket.recv_fds(connection, 65536, 3)
    try:
        size = 4
        while True:
            if len(data) >= 4:
                size = 4 + struct.unpack("!I", data[:4])[0]
            if len(data) >= size > 4:
                break
            part = connection.recv(65536)
            if not part:
                raise ConnectionError("the launcher went away")
            data += part
        if len(streams) != 3:
            raise ConnectionError("the launcher sent no standard streams")
        connection.settimeout(None)
        return json.loads(data[4:size]), streams
    except BaseException:
        for stream in streams:
            os.close(stream)
        raise


def _forget_own_modules() -> None:
    for name in [name for name in sys.modules if name == "isocline" or name.startswith("isocline.")]:
        del sys.modules[name]


def _become_stage(request: dict[str, Any], streams: list[int]) -> int:
    """In the child: take over the launcher's streams, folder and environment and run the stage."""
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["pipeline/launch.py", *request["argv"]]
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0, "r"), os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    _forget_own_modules()
    importlib.invalidate_caches()
    source = Path("src").absolute()
    if (source / "isocline").is_dir():
        sys.path.insert(0, str(source))
    run_stage = importlib.import_module("isocline.app.stage_entry").run_stage
    return int(run_stage(*request["argv"]))


class _Server:
    """Accepts launchers, forks a child for each, forwards signals, kills a child whose launcher is gone."""

    def __init__(self, listener: socket.socket, lifeline: int | None):
        self._listener = listener
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C reaches the launchers, which forward it
        signal.signal(signal.SIGTERM, self._terminate)
        self._selector.register(listener, selectors.EVENT_READ, "launcher")
        self._selector.register(self._wake_read, selectors.EVENT_READ, "child")
        if lifeline is not None:
            self._selector.register(lifeline, selectors.EVENT_READ, "lifeline")

    def _terminate(self, *_: object) -> None:
        self._kill_all()
        os._exit(0)

    def _kill_all(self) -> None:
        for child in self._children.values():
            self._kill(child, signal.SIGKILL)

    @staticmethod
    def _kill(child: _Child, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    def run(self) -> None:
        """Serve until the lifeline closes."""
        while True:
            for key, _ in self._selector.select():
                if key.data == "launcher":
                    self._accept()
                elif key.data == "child":
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                elif key.data == "lifeline":
                    self._kill_all()
                    return
                else:
                    self._listen_to(key.data)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            request, streams = _receive(connection)
        except (OSError, ValueError):
            connection.close()
            return
        sys.stdout.flush()
        sys.stderr.flush()
        server, (ready_read, ready_write) = os.getpid(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._in_child(connection, request, streams, server, ready_write)
        for end in (*streams, ready_write):
            os.close(end)
        os.read(ready_read, 1)  # the child leads its own group from here on
        os.close(ready_read)
        child = _Child(connection, pid)
        self._children[pid] = child
        self._selector.register(connection, selectors.EVENT_READ, child)
        with contextlib.suppress(OSError):
            connection.send(ACCEPTED)

    def _in_child(
        self, connection: socket.socket, request: dict[str, Any], streams: list[int], server: int, ready: int
    ) -> None:
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            die_with_parent(server)
            os.write(ready, b"R")
            os.close(ready)
            for child in self._children.values():
                child.connection.close()
            connection.close()
            self._listener.close()
            self._selector.close()
            code = _become_stage(request, streams)
        except KeyboardInterrupt:
            code = 130
        except BaseException as error:
            print(f"stage {' '.join(request['argv'])}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is None:
                continue
            self._kill(child, signal.SIGKILL)  # helpers that it left behind
            with contextlib.suppress(OSError):
                child.connection.send(struct.pack("!i", os.waitstatus_to_exitcode(status)))
            self._hang_up(child)

    def _listen_to(self, child: _Child) -> None:
        try:
            numbers = child.connection.recv(64)
        except OSError:
            numbers = b""
        if not numbers:  # the launcher is gone: nobody waits for this stage
            self._kill(child, signal.SIGKILL)
            self._hang_up(child)
        for number in numbers:
            self._kill(child, number)

    def _hang_up(self, child: _Child) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(child.connection)
        child.connection.close()


def serve(address: str, preload: tuple[str, ...] = PRELOAD, lifeline: int | None = None) -> None:
    """Serve stages on a Unix socket.

    Args:
        address: path of the socket; made here.
        preload: modules to import before the first fork.
        lifeline: a file descriptor; when its other end closes, all children are killed and this returns.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.bind(address)
        os.chmod(address, 0o600)
        listener.listen(64)
        waiting: list[int] = [listener.fileno(), *([] if lifeline is None else [lifeline])]
        select.select(waiting, [], [])
        for name in preload:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # the children's collector leaves the shared pages alone
        _Server(listener, lifeline).run()


def main() -> None:
    """``python -m isocline.app.stage_server SOCKET [MODULE…]``; ends when standard input closes."""
    address, *preload = sys.argv[1:]
    serve(address, tuple(preload) or PRELOAD, lifeline=0)


if __name__ == "__main__":
    main()
