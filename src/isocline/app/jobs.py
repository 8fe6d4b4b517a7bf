"""How many stages may run side by side on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["JOBS_VARIABLE", "job_count", "usable_cores"]

JOBS_VARIABLE = "ISOCLINE_JOBS"
_BYTES_A_STAGE = 2 * 2**30  # stages of the laptop profile take 0.6 to 1.3 GiB


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def job_count(params: Mapping[str, Any], threads: int, asked: int | None = None) -> int:
    """Stages to run side by side: as asked, else ``ISOCLINE_JOBS``, else what cores and free memory have room for.

    Results do not depend on it. With an accelerator the answer is one unless asked: stages would share its memory.

    Args:
        params: the composed configuration.
        threads: of each stage.
        asked: on the command line.

    Raises:
        ValueError: if it is asked for something else than a whole number above zero.
    """
    given: object = asked if asked is not None else os.environ.get(JOBS_VARIABLE) or None
    if given is not None:
        if isinstance(given, bool) or not str(given).isdecimal() or int(str(given)) < 1:
            where = "--jobs" if asked is not None else JOBS_VARIABLE
            raise ValueError(f"{where} is {given!r}; give a whole number above zero")
        return int(str(given))
    if params.get("accelerator", "cpu") != "cpu":
        return 1
    import psutil

    return max(1, min(usable_cores() // threads, psutil.virtual_memory().available // _BYTES_A_STAGE))
