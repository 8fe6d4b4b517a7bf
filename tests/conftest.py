"""Settings that every test shares: one thread per worker, no accidental network store, long files first."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("MLFLOW_TRACKING_URI", None)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names our own objects by their types: an address would differ between workers, which then refuse to start."""
    kind = type(val)
    if not kind.__module__.startswith("isocline."):
        return None
    inner = getattr(val, "schedule", None)
    return kind.__name__ if inner is None else f"{kind.__name__}-{type(inner).__name__}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of slow tests first: with several workers none is left with one when the others are done.

    A file is one worker's (``--dist=loadfile``), so that what it prepares once is prepared once.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_end_to_end.py", item.path not in slow))
