"""Train one model: network, process, objective, optimiser and average are built from its section of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, save_model
from isocline.app.training_stage import finish, training_tensors
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun
from isocline.training.fit import fit
from isocline.training.module import GenerativeModule
from isocline.training.settings import FitSettings


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Train model ``item`` and write ``data/models/<item>``."""
    assert item is not None
    section = params["models"][item]
    seed = derive_seed(params["seed"], "train", item)
    torch.manual_seed(derive_seed(seed, "weights"))
    process = build(section["process"])
    given = {} if process is None else {"process": process}
    network = build(section["network"])
    settings: FitSettings = build(section["trainer"])
    module = GenerativeModule(
        network,
        build(section["objective"], **given),
        build(section["optimizer"]),
        build(section["ema"]),
        seed=seed,
        steps=settings.steps,
        warmup=settings.warmup,
        final_lr=settings.final_lr,
    )
    tensors = training_tensors(run, Path("data") / section["modality"], section["network"].get("classes", 0))
    result = fit(module, tensors, settings, run.directory, label=f"train {item}", log=run.metrics)
    config = {
        "name": item,
        "modality": section["modality"],
        "teacher": None,
        "process": section["process"],
        "network": section["network"],
        "objective": section["objective"],
    }
    save_model(Path("data/models") / item, result.network, config, result.history)
    finish(run, item, result)
