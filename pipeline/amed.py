"""Train the AMED predictor of one model: where few steps look at the field, learned from its flow or from data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, load_model, write_history
from isocline.app.plugin_stage import flow_ends, read_grids
from isocline.app.training_stage import train, training_tensors
from isocline.datasets.storage import write_json, write_tensors
from isocline.processes.probability_flow import LinearPathVariable
from isocline.randomness import derive_seed
from isocline.samplers.amed import AMEDPredictor
from isocline.samplers.amed_distillation import AMEDDistillation
from isocline.samplers.grid import GivenGrid
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Train the predictor of model ``item`` into ``data/amed/<item>``; it starts from the model's optimised grids."""
    assert item is not None
    section = params["plugins"]["amed"]
    seed = derive_seed(params["seed"], "amed", item)
    model = load_model(Path("data/models") / item)
    wrap = build(section["wrap"]).get(item)
    objective = build(section["objectives"]).get(item, AMEDDistillation)(model.process, model.network, wrap)
    network, grid = model.config["network"], GivenGrid(read_grids(item))
    torch.manual_seed(derive_seed(seed, "weights"))
    positions = {nfe: grid(model.process, LinearPathVariable(), nfe).tolist() for nfe in section["nfe"]}
    predictor = AMEDPredictor(positions, (network["channels"], network["size"], network["size"]), section["width"])
    if objective.paired:
        tensors = flow_ends(item, section, params["accelerator"], seed).pairs()
    else:
        tensors = training_tensors(run, Path("data/images"), network.get("classes", 0))
    result = train(run, f"amed {item}", predictor, objective, section, tensors, seed)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in result.network.state_dict().items()}
    write_tensors(Path("data/amed") / item / "weights.safetensors", state)
    last = result.history[-1]
    document = {"train_loss": last["loss"], "steps": int(last["step"])}
    write_json(Path(f"metrics/amed-{item}.json"), document)
    write_history(Path(f"plots/amed-{item}.csv"), result.history)
    run.document(document)
    run.tag("isocline.teacher", item)
    run.timing("train_seconds", result.seconds)
    run.model(f"amed-{item}", Path("data/amed") / item)
