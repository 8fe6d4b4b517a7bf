"""Runs one stage: `python pipeline/launch.py STAGE [ITEM]`, in the warm stage server if there is one.

The command is the same either way, so DVC sees the same stage. Only the standard library is imported here: with a
server, this process does nothing but lend the stage its terminal and wait.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from types import FrameType

SERVER_VARIABLE = "ISOCLINE_STAGE_SERVER"
ACCEPTED = b"A"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def request(argv: list[str]) -> bytes:
    """What the server needs to know, preceded by its length."""
    body = json.dumps({"argv": argv, "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
    return struct.pack("!I", len(body)) + body


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes, fewer if the other side is gone."""
    data = b""
    while len(data) < size:
        try:
            part = connection.recv(size - len(data))
        except ConnectionError:
            part = b""
        if not part:
            break
        data += part
    return data


def run_in_server(address: str, argv: list[str]) -> int | None:
    """Hand the stage to the server and wait.

    Returns:
        The stage's exit code; None if the server never took the stage, so that it may be run here.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        try:
            connection.connect(address)
            message = request(argv)
            sent = socket.send_fds(connection, [message], [0, 1, 2])
            connection.sendall(message[sent:])
        except OSError:
            return None

        def forward(number: int, frame: FrameType | None) -> None:
            try:
                connection.send(bytes([number]))
            except OSError:
                sys.exit(128 + number)

        before = {number: signal.signal(number, forward) for number in FORWARDED}
        try:
            if receive(connection, 1) != ACCEPTED:
                return None
            reply = receive(connection, 4)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    name = " ".join(argv)
    if len(reply) < 4:
        print(f"stage {name}: the stage server died; run again to go on from the last checkpoint", file=sys.stderr)
        return 1
    (code,) = struct.unpack("!i", reply)
    if code < 0:
        killed = f"stage {name}: killed by signal {-code}"
        hint = " (memory used up?)" if -code == signal.SIGKILL else ""
        print(f"{killed}{hint}; run again to go on from the last checkpoint", file=sys.stderr)
        return 128 - int(code)
    return int(code)


def run_here(argv: list[str]) -> int:
    """Import the library and run the stage in this process."""
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [path for path in sys.path if path != here]
    if Path("src/isocline").is_dir():  # a copy of the project (`dvc exp run --temp`) runs its own code
        sys.path.insert(0, str(Path("src").absolute()))
    os.environ.update({"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"})  # as in the stage server
    from isocline.app.stage_entry import run_stage

    return run_stage(*argv)


def main(argv: list[str]) -> int:
    """Run the stage named by ``argv`` and return its exit code."""
    if len(argv) not in (1, 2):
        print("usage: python pipeline/launch.py STAGE [ITEM]", file=sys.stderr)
        return 2
    address = os.environ.get(SERVER_VARIABLE)
    if address:
        code = run_in_server(address, argv)
        if code is not None:
            return code
        print("the stage server does not answer; running the stage without it", file=sys.stderr)
    return run_here(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
