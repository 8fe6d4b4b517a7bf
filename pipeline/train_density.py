"""Train one density on points: an invertible network, or a field read as a continuous flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.training_stage import train_model
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Train density ``item`` on its point set and write ``data/models/<item>``."""
    assert item is not None
    section = params["densities"][item]
    train_model(run, item, "points", section, Path("data/points") / section["data"], params["seed"])
