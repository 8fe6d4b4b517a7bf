"""Evaluate a classifier: accuracy, accuracy over evaluations, and gradient methods on its trained weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, device_of, load_model, load_tensors
from isocline.app.evaluation_stage import write_json, write_table
from isocline.datasets.quantisation import to_float
from isocline.datasets.storage import write_tensors
from isocline.metrics.classification import ClassifierSettings, classify, summary, sweep
from isocline.metrics.solver_gradients import compare_gradients
from isocline.networks.classifier import AbstractClassifier
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Evaluate model ``item``: write its metrics, its curve over evaluations and what it said of every image."""
    assert item is not None
    settings: ClassifierSettings = build(params["evaluation"]["classifiers"])
    device = device_of(params["accelerator"])
    network = load_model(Path("data/models") / item, device=device).network
    assert isinstance(network, AbstractClassifier)
    test = load_tensors(Path("data/images/test.safetensors"))
    run.dataset_file("data/images/test.safetensors", context="test")
    images, labels = (test[name][: settings.images] for name in ("images", "labels"))

    began = time.perf_counter()
    outcomes = classify(network, images, labels, settings.batch_size, device)
    run.timing("images_per_second", len(images) / (time.perf_counter() - began))
    points = {point.setting: summary(point.outcomes) for point in sweep(network, images, labels, settings, device)}
    batch = slice(settings.gradient_images)
    gradients = compare_gradients(network, to_float(images[batch].to(device)), labels[batch].to(device), settings)
    for name, report in gradients.items():
        run.timing(f"gradient_seconds_{name}", report.seconds)

    document = {
        **summary(outcomes),
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "accuracy_at": {setting: found["accuracy"] for setting, found in points.items()},
        "nfe_at": {setting: found["nfe"] for setting, found in points.items()},
        "gradients": {name: report.metrics() for name, report in gradients.items()},
        "protocol": {
            "images": len(images),
            "intervals": "accuracy: Wilson's, 95 %; they speak of the test images, not of another training",
            "at": "digits k of the tolerance 10^-k where steps are adaptive, else the number of steps",
            "gradients": f"first {settings.gradient_images} test images; errors in float64, against the first method",
        },
    }
    rows = [
        {"setting": setting, "nfe": found["nfe"].mean, "nfe_max": found["nfe_max"], "nats": found["nats"].mean}
        | {f"accuracy{end}": found["accuracy"][key] for end, key in (("", "mean"), ("_low", "low"), ("_high", "high"))}
        for setting, found in points.items()
    ]
    said = {"right": outcomes.right.to(torch.uint8), "nfe": outcomes.nfe, "log_probs": outcomes.log_probs.float()}
    write_tensors(Path("data/evaluations") / item / "outcomes.safetensors", said)
    write_table(Path(f"plots/nfe-{item}.csv"), rows)
    write_json(Path(f"metrics/evaluate-{item}.json"), document)
    run.document(document)
