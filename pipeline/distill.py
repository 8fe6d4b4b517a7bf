"""Distil a teacher into a student: an objective that holds the teacher, in the same training loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from isocline.app.artifacts import build, load_model, save_model
from isocline.app.latent_space import carry_autoencoder
from isocline.app.training_stage import finish, training_tensors
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun
from isocline.training.fit import fit
from isocline.training.module import GenerativeModule
from isocline.training.settings import FitSettings


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Distil into student ``item`` and write ``data/models/<item>``; the student starts from its teacher's weights."""
    assert item is not None
    section = params["students"][item]
    teacher = load_model(Path("data/models") / section["teacher"])
    network = copy.deepcopy(teacher.network).requires_grad_(True).train()
    settings: FitSettings = build(section["trainer"])
    module = GenerativeModule(
        network,
        build(section["objective"], process=teacher.process, teacher=teacher.network),
        build(section["optimizer"]),
        build(section["ema"]),
        seed=derive_seed(params["seed"], "distill", item),
        steps=settings.steps,
        warmup=settings.warmup,
        final_lr=settings.final_lr,
    )
    tensors = training_tensors(run, Path(section["data"]), teacher.config["network"].get("classes", 0))
    run.tag("isocline.teacher", section["teacher"])
    result = fit(module, tensors, settings, run.directory, label=f"distil {item}", log=run.metrics)
    config = {**teacher.config, "name": item, "teacher": section["teacher"], "distillation": section["objective"]}
    save_model(Path("data/models") / item, result.network, config, result.history, result.averages)
    carry_autoencoder(Path("data/models") / section["teacher"], Path("data/models") / item)
    finish(run, item, result)
