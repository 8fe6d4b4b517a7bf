"""Distil a teacher into a student: an objective that holds the teacher, in the same training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.adapters import save_adapter
from isocline.app.artifacts import build, load_model, save_model
from isocline.app.latent_space import carry_autoencoder
from isocline.app.regularisers import recorded
from isocline.app.student_network import start_network
from isocline.app.training_stage import finish, teacher_costs, train, training_tensors
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Distil into student ``item`` and write ``data/models/<item>``; `start_network` says where it starts."""
    assert item is not None
    section, seed = params["students"][item], derive_seed(params["seed"], "distill", item)
    teacher = load_model(Path("data/models") / section["teacher"])
    network, network_section = start_network(teacher, section, f"students.{item}", seed)
    objective = build(section["objective"], process=teacher.process, teacher=teacher.network)
    tensors = training_tensors(run, Path(section["data"]), network_section.get("classes", 0))
    run.tag("isocline.teacher", section["teacher"])
    result = train(run, f"distil {item}", network, objective, section, tensors, seed)
    config = {
        **{key: part for key, part in teacher.config.items() if key != "regularisers"},
        "name": item,
        "teacher": section["teacher"],
        "network": network_section,
        "distillation": section["objective"],
        **recorded(section),
    }
    save_model(Path("data/models") / item, result.network, config, result.history, result.averages, teacher.process)
    save_adapter(Path("data/models") / item, result.network, section["teacher"])
    carry_autoencoder(Path("data/models") / section["teacher"], Path("data/models") / item)
    finish(run, item, result, teacher_costs(objective, Path(section["data"])))
