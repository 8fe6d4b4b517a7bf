"""Estimate the statistics of one image model that DPM-Solver-v3 needs, on training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, device_of, load_model, load_tensors
from isocline.app.plugin_stage import wrapped
from isocline.datasets.quantisation import to_float
from isocline.datasets.storage import write_tensors
from isocline.processes.denoiser import Denoiser
from isocline.randomness import derive_seed, generator
from isocline.samplers.model_statistics import estimate_statistics
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Estimate the statistics of model ``item``; write ``data/statistics/<item>``."""
    assert item is not None
    section, device = params["plugins"]["statistics"], device_of(params["accelerator"])
    model = load_model(Path("data/models") / item, device=device)
    denoiser = wrapped(Denoiser(model.network, model.process), build(section["wrap"]), item)
    train = load_tensors(Path("data/images/train.safetensors"))
    run.dataset_file("data/images/train.safetensors", context="train")
    images = train["images"][: section["samples"]].to(device)
    data = images if images.is_floating_point() else to_float(images)
    labels = train["labels"][: len(images)].to(device) if model.config["network"].get("classes") else None
    low, high = section["log_ratios"]
    values = torch.linspace(low, high, section["points"], dtype=torch.float64)
    draws = generator(derive_seed(params["seed"], "model-statistics", item), "noise")
    found = estimate_statistics(denoiser, data, values, draws, labels, growths=section["growths"])
    write_tensors(Path("data/statistics") / item / "statistics.safetensors", found.tensors())
    run.tag("isocline.teacher", item)
