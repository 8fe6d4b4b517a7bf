"""Train one variant of the depth integrator on text, at equal parameters and at equal operations, and measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.artifacts import device_of, load_tensors
from isocline.app.depth_document import depth_document, growth_columns
from isocline.app.depth_stage import DepthData, DepthRun, DepthStudy, write_growth
from isocline.app.evaluation_stage import write_json
from isocline.metrics.text_likelihood import spread_rows
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Study the networks of variant ``item``: write their metrics and the growth of perturbations with depth."""
    assert item is not None
    section = params["depth"]["study"]
    train, valid = (load_tensors(Path(f"data/text/{split}.safetensors")) for split in ("train", "valid"))
    run.dataset_file("data/text/train.safetensors", context="train")
    rows = spread_rows(len(valid["tokens"]), section["settings"]["sequences"])
    data = DepthData(train["tokens"], valid["tokens"][rows], valid["characters"][rows])
    study = DepthStudy(run, section, data, params["seed"], device_of(params["accelerator"]))
    target = study.ordinary_flops()
    found: dict[str, dict[str, list[DepthRun]]] = {}
    for name, network in params["depth"]["variants"][item].items():
        trained: dict[int, list[DepthRun]] = {}
        found[name] = {}
        for column, depth in study.depths(network).items():
            if depth not in trained:  # where both comparisons ask for the same network, it is trained once
                trained[depth] = [study.train(name, network, depth, n) for n in range(study.settings.seeds)]
                seconds = sum(one.seconds for one in trained[depth]) / study.settings.seeds
                run.timing(f"{name}_{column}_train_seconds", seconds)
            found[name][column] = trained[depth]
            bits = ", ".join(f"{one.bits_per_char:.4f}" for one in trained[depth])
            print(f"depth {name}, equal {column}: {depth} layers, {bits} bits per character", flush=True)
    document = depth_document(found, target, section)
    write_json(Path(f"metrics/depth-{item}.json"), document)
    growth = Path("data/depth") / item / "growth.csv"
    write_growth(growth, growth_columns(found))
    run.artifact(growth, "depth")
    run.document(document)
