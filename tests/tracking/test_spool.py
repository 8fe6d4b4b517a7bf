"""The event file survives what kills its writer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isocline.tracking.spool import Spool, exclusive, is_held, read_events, spool_to_continue


def written(spool: Spool) -> list[int]:
    return [event["n"] for event, _ in read_events(spool.path) if event["e"] == "count"]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "stage" / "print" / "spool-one")
    spool.open("name", "stage")
    return spool


def test_torn_last_line_is_not_read_and_is_cut_off_when_the_spool_is_opened_again(spool: Spool) -> None:
    spool.append({"e": "count", "n": 1})
    spool.close()
    whole = spool.path.read_bytes()
    spool.path.write_bytes(whole + b'{"e":"count","n":')
    assert written(spool) == [1]
    spool.open("name", "stage")
    spool.append({"e": "count", "n": 2})
    spool.close()
    assert written(spool) == [1, 2]
    assert spool.path.read_bytes().startswith(whole)


def test_torn_first_line_starts_the_spool_afresh(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "a" / "b" / "spool-x")
    spool.directory.mkdir(parents=True)
    spool.path.write_bytes(b'{"e":"open","id"')
    spool.open("name", "stage")
    assert spool.header is not None
    assert spool.header["stage"] == "stage"


def test_long_torn_line_is_cut_across_blocks(spool: Spool) -> None:
    whole = spool.path.read_bytes()
    spool.close()
    spool.path.write_bytes(whole + b"x" * 10_000)
    spool.open("name", "stage")
    assert spool.path.read_bytes() == whole


def test_line_torn_in_the_middle_is_skipped(spool: Spool) -> None:
    spool.close()
    with spool.path.open("ab") as file:
        file.write(b'\x00\x00{"e"\n' + json.dumps({"e": "count", "n": 3}).encode() + b"\n")
    assert written(spool) == [3]


def test_offset_behind_an_event_continues_with_the_next(spool: Spool) -> None:
    for n in range(3):
        spool.append({"e": "count", "n": n})
    offsets = [offset for _, offset in read_events(spool.path)]
    assert [event["n"] for event, _ in read_events(spool.path, offsets[1])] == [1, 2]


def test_not_a_number_never_reaches_the_file(spool: Spool) -> None:
    before = spool.path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        spool.append({"e": "count", "n": float("nan")})
    assert spool.path.read_bytes() == before


def test_events_of_a_killed_process_are_there(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from isocline.tracking.spool import Spool\n"
        f"s = Spool(Path({str(tmp_path / 's')!r})); s.open('n', 'n')\n"
        "for n in range(100): s.append({'e': 'count', 'n': n})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert written(Spool(tmp_path / "s")) == list(range(100))


def test_kept_artifact_outlives_its_source(spool: Spool, tmp_path: Path) -> None:
    source = tmp_path / "figure.txt"
    source.write_text("a figure")
    event = spool.keep(source, "figures")
    source.unlink()
    assert (spool.directory / event["path"]).read_text() == "a figure"


def test_only_an_unfinished_run_is_continued(tmp_path: Path) -> None:
    first = spool_to_continue(tmp_path)
    first.open("n", "n")
    first.append({"e": "status", "v": "RUNNING"})
    assert spool_to_continue(tmp_path).directory == first.directory
    first.append({"e": "status", "v": "FAILED"})
    assert spool_to_continue(tmp_path).directory == first.directory
    first.append({"e": "status", "v": "FINISHED"})
    assert spool_to_continue(tmp_path).directory != first.directory


def test_lock_is_exclusive_names_its_owner_and_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from isocline.tracking.spool import exclusive\n"
        f"with exclusive(Path({str(tmp_path / 'lock')!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(TimeoutError, match=str(owner.pid)), exclusive(tmp_path / "lock", timeout=0):
            pass
        assert is_held(tmp_path / "lock")
        owner.kill()
        owner.wait()
    began = time.monotonic()
    with exclusive(tmp_path / "lock", timeout=30):
        assert time.monotonic() - began < 30
    assert not is_held(tmp_path / "lock")
    assert not is_held(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
