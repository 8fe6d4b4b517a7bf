"""Make noise-sample pairs with a model's flow: the training data of reflow, cached as a stage of its own."""

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
    """Send ``count`` noise draws down the flow of model or student ``item``; write ``data/pairs/<item>``."""
    assert item is not None
    section, device = params["pairs"][item], device_of(params["accelerator"])
    teacher = load_model(Path("data/models") / item, section["sampler"], device)
    denoiser, network = Denoiser(teacher.network, teacher.process), teacher.config["network"]
    shape = (network["channels"], network["size"], network["size"])
    seed, began = derive_seed(params["seed"], "pairs", item), time.perf_counter()
    classes, count = network.get("classes", 0), section["count"]
    labels = torch.arange(count) % classes if classes else None
    starts, ends, evaluations = [], [], []
    for first in track(range(0, count, section["batch_size"]), f"pairs {item}"):
        last = min(first + section["batch_size"], count)
        x1 = sample_noise(seed, "pairs", range(first, last), shape)
        with torch.inference_mode():
            cond = None if labels is None else labels[first:last].to(device)
            solution = teacher.sampler.sample(denoiser, x1.to(device), section["nfe"], cond=cond)
        starts.append(x1)
        ends.append(solution.final.float().cpu())
        evaluations.append(solution.stats.nfe.cpu().expand(last - first))
    spent, directory = torch.cat(evaluations), Path("data/pairs") / item
    card = {
        **section,
        "teacher": item,
        "teacher_evaluations": int(spent.sum()),
        "evaluations_per_pair": {"least": int(spent.min()), "most": int(spent.max())},
    }
    write_json(directory / "card.json", card)
    made = {"x0": torch.cat(ends), "x1": torch.cat(starts), **({} if labels is None else {"cond": labels})}
    write_tensors(directory / "pairs.safetensors", made)  # last: a folder that holds the pairs is complete
    run.tag("isocline.teacher", item)
    run.metrics({"pairs": float(count), "pairs_teacher_evaluations": float(spent.sum())})
    run.timing("pairs_per_second", count / (time.perf_counter() - began))
