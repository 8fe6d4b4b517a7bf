"""Errors of the machine in words that say what to do."""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = ["disk_full", "one_line"]


def disk_full(error: BaseException | None) -> str | None:
    """Say where the disk is full and what frees space, if that is what an error, or one of its causes, means."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = error.filename or Path.cwd()
            return f"disk full at {place}; free space (for instance `dvc gc --workspace`), then run again"
        error = error.__cause__
    return None


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's message on one line, cut at ``limit`` characters."""
    return " ".join(str(error).split())[:limit]
