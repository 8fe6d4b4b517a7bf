"""Settings that every test shares: one thread per worker, float32 by default, no accidental network store."""

from __future__ import annotations

import os

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
