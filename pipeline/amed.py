"""Train the AMED predictor of one model: where few steps look at the field, learned from its flow or from data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, load_model, write_history
from isocline.app.plugin_stage import flow_ends, read_grids
from isocline.app.training_stage import train, training_tensors
from isocline.datasets.storage import write_json, write_tensors
from isocline.processes.gaussian import GaussianProcess
from isocline.randomness import derive_seed
from isocline.samplers.amed import AMEDPredictor, TurningPlan
from isocline.samplers.amed_distillation import AMEDDistillation
from isocline.samplers.base import AbstractSampler
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Train the predictor of model ``item`` into ``data/amed/<item>``.

    For each budget it starts from the sampler that ends nearest to the flow on the grid that was optimised for it.
    """
    assert item is not None
    section = params["plugins"]["amed"]
    seed = derive_seed(params["seed"], "amed", item)
    model = load_model(Path("data/models") / item)
    wrap = build(section["wrap"]).get(item)
    objective = build(section["objectives"]).get(item, AMEDDistillation)(model.process, model.network, wrap)
    network, plans = model.config["network"], {}
    for nfe in section["nfe"]:
        name, plans[nfe] = _start(item, model.process, nfe)
        print(f"amed {item}: at {nfe} from {name} on its optimised grid", flush=True)
    torch.manual_seed(derive_seed(seed, "weights"))
    predictor = AMEDPredictor(plans, (network["channels"], network["size"], network["size"]), section["width"])
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


def _start(item: str, process: GaussianProcess, nfe: int) -> tuple[str, TurningPlan]:
    """The sampler to start from, by its name, and as AMED takes it."""
    errors, plans = {}, {}
    for name, made in read_grids(item).items():
        sampler: AbstractSampler = build(made.sampler)
        plan = TurningPlan.of(sampler.on(made.grid()), process, nfe) if nfe in made.budgets else None
        if plan is not None:
            errors[name], plans[name] = made.budgets[nfe].error, plan
    if not plans:
        raise ValueError(
            f"plugins.amed.nfe: AMED at {nfe} starts from the optimised grid of adams_bashforth or dpm_solver_2, and "
            f"there is none; add {nfe} to plugins.grid.nfe and one of the two to plugins.grid.samplers"
        )
    nearest = min(plans, key=lambda name: errors[name])
    return nearest, plans[nearest]
