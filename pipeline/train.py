"""Train one model: network, process, objective, optimiser and average are built from its section of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.training_stage import train_model
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Train model ``item`` and write ``data/models/<item>``."""
    assert item is not None
    section = params["models"][item]
    modality = section["modality"]
    train_model(run, item, modality, section, Path("data") / modality, params["seed"])
