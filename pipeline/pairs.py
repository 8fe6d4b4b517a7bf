"""Make noise-sample pairs with the teacher's ODE: the training data of reflow, cached as a stage of its own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from isocline.app.artifacts import device_of, load_model
from isocline.datasets.storage import write_json, write_tensors
from isocline.processes.denoiser import Denoiser
from isocline.randomness import derive_seed, sample_noise
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Integrate ``pairs.count`` noise draws with the teacher's sampler; write ``data/pairs/<teacher>``."""
    assert item is not None
    section = params["students"][item]
    teacher_name, pairs = section["teacher"], section["pairs"]
    device = device_of(params["accelerator"])
    teacher = load_model(Path("data/models") / teacher_name, params["models"][teacher_name]["sampler"], device)
    denoiser = Denoiser(teacher.network, teacher.process)
    network = teacher.config["network"]
    shape = (network["channels"], network["size"], network["size"])
    seed, began = derive_seed(params["seed"], "pairs", item), time.perf_counter()
    classes = network.get("classes", 0)
    labels = torch.arange(pairs["count"]) % classes if classes else None
    starts, ends, evaluations = [], [], 0
    for first in track(range(0, pairs["count"], pairs["batch_size"]), "pairs"):
        last = min(first + pairs["batch_size"], pairs["count"])
        x1 = sample_noise(seed, "pairs", range(first, last), shape)
        with torch.inference_mode():
            cond = None if labels is None else labels[first:last].to(device)
            solution = teacher.sampler.sample(denoiser, x1.to(device), pairs["nfe"], cond=cond)
        starts.append(x1)
        ends.append(solution.final.float().cpu())
        evaluations = int(solution.stats.nfe.max())
    directory = Path("data/pairs") / teacher_name
    card = {**pairs, "teacher": teacher_name, "nfe": evaluations, "sampler": params["models"][teacher_name]["sampler"]}
    write_json(directory / "card.json", card)
    made = {"x0": torch.cat(ends), "x1": torch.cat(starts), **({} if labels is None else {"cond": labels})}
    write_tensors(directory / "pairs.safetensors", made)  # last: a folder that holds the pairs is complete
    run.tag("isocline.teacher", teacher_name)
    run.metrics({"pairs": float(pairs["count"]), "pairs_nfe": float(evaluations)})
    run.timing("pairs_per_second", pairs["count"] / (time.perf_counter() - began))
