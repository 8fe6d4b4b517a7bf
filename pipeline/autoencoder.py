"""Train an autoencoder on the images and encode the training split: the data of latent models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, load_tensors, save_model, write_history
from isocline.app.judges import load_image_judge
from isocline.app.latent_space import FOLDER, load_autoencoder
from isocline.app.training_stage import train
from isocline.datasets.quantisation import to_float, to_uint8
from isocline.datasets.storage import write_json, write_tensors
from isocline.metrics.image_metrics import Frechet, ImageReference
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun

BATCH = 256


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write ``data/<item>`` (latents, labels, autoencoder) and ``metrics/autoencoder-<item>.json``."""
    assert item is not None
    section, directory = params["autoencoders"][item], Path("data") / item
    seed = derive_seed(params["seed"], "autoencoder", item)
    torch.manual_seed(derive_seed(seed, "weights"))
    network, objective = build(section["network"]), build(section["objective"])
    seen, test = (load_tensors(Path(f"data/images/{split}.safetensors")) for split in ("train", "test"))
    run.dataset_file("data/images/train.safetensors", context="train")
    result = train(run, f"autoencoder {item}", network, objective, section, {"x0": seen["images"]}, seed)
    result.network.calibrate(to_float(part) for part in seen["images"].split(BATCH))  # type: ignore[operator]
    config = {
        "name": item,
        "modality": "images",
        "process": None,
        "network": section["network"],
        "objective": section["objective"],
    }
    save_model(directory / FOLDER, result.network, config, result.history)
    network = load_autoencoder(directory / FOLDER)
    with torch.inference_mode():
        latents = torch.cat([network.encode(to_float(part)) for part in seen["images"].split(BATCH)])
        made = torch.cat([network(to_float(part)) for part in test["images"].split(BATCH)])
    errors = (made - to_float(test["images"])).square().flatten(1).mean(1)
    reference = ImageReference(load_image_judge(), seen["images"], test["images"])
    document = {
        "mse": Estimate.from_values(errors.double().numpy()).as_dict(),
        "frechet": Frechet()(reference.see(to_uint8(made)), reference)["frechet"],
        "latent_shape": list(network.latent_shape),
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": int(result.history[-1]["step"]),
        "train_loss": result.history[-1]["loss"],
    }
    write_json(Path(f"metrics/autoencoder-{item}.json"), document)
    write_history(Path(f"plots/autoencoder-{item}.csv"), result.history)
    run.metrics({"mse": float(errors.mean()), "frechet": document["frechet"]})
    run.timing("train_seconds", result.seconds)
    write_tensors(directory / "train.safetensors", {"latents": latents, "labels": seen["labels"]})  # last: complete
    print(f"autoencoder: mean squared error {float(errors.mean()):.4f} on the test split", flush=True)
