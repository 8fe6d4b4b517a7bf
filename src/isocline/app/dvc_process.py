"""``python -m isocline.app.dvc_process ARGS``: DVC, without parsing the same text again and again.

dvc.lock is written one stage's block at a time (see `isocline.app.dvc_lock`); params.yaml, which DVC reads three times
a stage, is parsed once. With ``ISOCLINE_JOBS`` above one, stages run side by side (see `isocline.app.parallel_stages`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import sys
from typing import Any

from dvc import dvcfile
from dvc.utils.serialize import _yaml, parse_yaml

from isocline.app.dvc_lock import modify_lock
from isocline.app.jobs import JOBS_VARIABLE
from isocline.tracking.spool import RUNS

__all__ = ["main", "parse_once"]


def parse_once(text: str, path: str, typ: str = "safe") -> Any:
    """Stand in for DVC's ``parse_yaml``: a text that was parsed before is not parsed again.

    Args:
        text: YAML.
        path: named in errors.
        typ: ``safe`` for plain containers; others are left to DVC.

    Returns:
        Containers of the caller's own, which may be changed.
    """
    return pickle.loads(_parsed(text, path)) if typ == "safe" else parse_yaml(text, path, typ)


@functools.lru_cache(maxsize=4)
def _parsed(text: str, path: str) -> bytes:
    return pickle.dumps(parse_yaml(text, path))


def main(argv: list[str]) -> int:
    """Run ``dvc argv`` in this process and return its exit code."""
    from dvc.cli import main as dvc_main

    for module, name, ours in ((dvcfile, "modify_yaml", modify_lock), (_yaml, "parse_yaml", parse_once)):
        if hasattr(module, name):  # not an interface: a release that moves it is only slower
            setattr(module, name, ours)
    jobs = os.environ.get(JOBS_VARIABLE, "1")
    with _side_by_side(int(jobs)) if jobs.isdecimal() and int(jobs) > 1 else contextlib.nullcontext():
        return int(dvc_main(argv))


def _side_by_side(jobs: int) -> contextlib.AbstractContextManager[None]:
    from isocline.app.parallel_stages import SideBySide

    return SideBySide(jobs, _seconds()).installed()


def _seconds() -> dict[str, float]:
    """How long each stage took when it last ran here."""
    found = {}
    for path in (RUNS / "timings").glob("*.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            found[path.stem] = float(json.loads(path.read_text())["seconds"])
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
