"""Evaluate an image model over function evaluations; likelihood where the configuration asks for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocline.app.artifacts import build, device_of, load_model, load_tensors
from isocline.app.decoding import decoded
from isocline.app.evaluation_stage import metrics_document, model_section, write_curve, write_json
from isocline.app.judges import load_image_judge
from isocline.datasets.storage import write_bytes, write_tensors
from isocline.metrics.image_evaluation import ImageEvaluation, evaluate_images
from isocline.metrics.image_likelihood import image_likelihood
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.settings import ImageSettings
from isocline.metrics.trajectory_evaluation import flow_shape
from isocline.metrics.uncertainty import Estimate
from isocline.processes.denoiser import Denoiser
from isocline.randomness import derive_seed
from isocline.report.pictures import film, png, square_columns, thin, tile
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Evaluate model ``item``: write its metrics, its curve over NFE, its samples and a trajectory."""
    assert item is not None
    settings: ImageSettings = build(params["evaluation"]["images"])
    device, seed = device_of(params["accelerator"]), derive_seed(params["seed"], "evaluate-images")
    section = model_section(params, item)
    directory = Path("data/models") / item
    model = load_model(directory, section["sampler"], device)
    train, test = (load_tensors(Path(f"data/images/{split}.safetensors")) for split in ("train", "test"))
    network = model.config["network"]
    classes, shape = network.get("classes", 0), (network["channels"], network["size"], network["size"])
    run.dataset_file("data/images/test.safetensors", context="test")
    denoiser = Denoiser(model.network, model.process)
    reference = ImageReference(load_image_judge(device=device), train["images"], test["images"])
    result = evaluate_images(
        denoiser, decoded(model.sampler, directory, device), reference, settings, seed,
        classes=classes, shape=shape, device=device,
        progress=lambda line: print(f"evaluate {item}: {line}", flush=True),
    )  # fmt: skip

    more: dict[str, Any] = {"collapse": result.collapsed()}
    for nfe, reason in more["collapse"].items():
        print(f"evaluate {item}: collapsed at NFE {nfe}: {reason} of real images", flush=True)
    if flow := settings.likelihood.models.get(item):
        began = time.perf_counter()
        more["bits_per_dim"] = image_likelihood(
            denoiser, test["images"], flow, settings.likelihood, seed,
            classes=classes, labels=test["labels"], device=device,
        )  # fmt: skip
        run.timing("likelihood_seconds", time.perf_counter() - began)
    paths = flow_shape(
        denoiser, seed, count=settings.trajectories, steps=settings.trajectory_nfe,
        shape=shape, classes=classes, device=device,
    )  # fmt: skip
    more |= {name: Estimate.from_values(values.cpu().numpy()) for name, values in paths._asdict().items()}
    protocol = {
        "samples": settings.samples,
        "seeds": settings.seeds,
        "features": "judge",
        "reference": f"test split, {len(test['images'])} images; frechet_train: training split, {len(train['images'])}",
        "floor": f"training images against the test split, {settings.samples} a set",
        "sampler": section["sampler"],
        "paths": f"{settings.trajectories} trajectories in {settings.trajectory_nfe} DDIM steps, whatever the sampler",
    }
    document = metrics_document(result.values, result.floor, protocol, **more)
    outputs = Path("data/evaluations") / item
    write_tensors(
        outputs / "samples.safetensors", {f"nfe_{n}": g for n, g in zip(result.nfe, result.grids, strict=True)}
    )
    write_tensors(outputs / "trajectory.safetensors", {"t": result.times, "states": result.trajectory})
    _draw(run, result)
    write_curve(Path(f"plots/nfe-{item}.csv"), result.estimates())
    write_json(Path(f"metrics/evaluate-{item}.json"), document)
    run.document(document)
    if model.teacher:
        run.tag("isocline.teacher", model.teacher)
    for nfe, rate in result.rates.items():
        run.timing(f"samples_per_second_nfe_{nfe}", rate)


def _draw(run: StageRun, result: ImageEvaluation) -> None:
    """Log the samples at each budget and the trajectory as pictures."""
    for nfe, grid in zip(result.nfe, result.grids, strict=True):
        run.artifact(_sheet(run, f"nfe-{nfe:04d}.png", tile(grid.numpy(), square_columns(len(grid)))), "samples")
    picks = thin(len(result.trajectory), 12)
    run.artifact(_sheet(run, "trajectory.png", film(result.trajectory[picks].numpy(), 8)), "samples")


def _sheet(run: StageRun, name: str, pixels: NDArray[np.uint8]) -> Path:
    """Write a picture to the run's folder, twice enlarged."""
    write_bytes(run.directory / name, png(pixels.repeat(2, axis=0).repeat(2, axis=1)))
    return run.directory / name
