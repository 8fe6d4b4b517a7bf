"""Evaluate a density on points: likelihood over evaluations, samples, and for continuous flows the traces' spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build, device_of, load_model, load_tensors
from isocline.app.evaluation_stage import write_curve, write_json
from isocline.datasets.storage import write_bytes, write_tensors
from isocline.metrics.density_evaluation import DensityEvaluation, evaluate_density
from isocline.metrics.density_settings import DensitySettings
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import derive_seed
from isocline.report.density_pictures import density_picture
from isocline.report.pictures import png
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Evaluate density ``item``: write its metrics, its curve over NFE, its samples and its picture's values."""
    assert item is not None
    settings: DensitySettings = build(params["evaluation"]["points"])
    data = params["densities"][item]["data"]
    device, seed = device_of(params["accelerator"]), derive_seed(params["seed"], "evaluate-density")
    model = load_model(Path("data/models") / item, device=device)
    folder = Path("data/points") / data
    train, test = (load_tensors(folder / f"{name}.safetensors")["points"].to(device) for name in ("train", "test"))
    run.dataset_file(folder / "test.safetensors", context="test")
    result = evaluate_density(
        model.network, model.objective, train, test, settings, seed,
        progress=lambda line: print(f"evaluate {item}: {line}", flush=True),
    )  # fmt: skip
    document = _document(result, settings, data, len(test))
    outputs = Path("data/evaluations") / item
    tensors = {"samples": result.samples}
    if result.log_density is not None:
        tensors |= {"log_density": result.log_density, "extent": torch.tensor([settings.extent])}
    write_tensors(outputs / "density.safetensors", tensors)
    picture = run.directory / "density.png"
    write_bytes(picture, png(density_picture({name: tensor.numpy() for name, tensor in tensors.items()})))
    run.artifact(picture, "samples")
    write_curve(Path(f"plots/nfe-{item}.csv"), {"nats": result.over_nfe})
    write_json(Path(f"metrics/evaluate-{item}.json"), document)
    run.document(document)


def _document(result: DensityEvaluation, settings: DensitySettings, data: str, count: int) -> dict[str, Any]:
    return {
        "nats": {**result.nats.as_dict(), "kind": "exact"},
        "nats_over_nfe": dict(result.over_nfe),
        "energy_distance": {**Estimate.from_values(result.energy).as_dict(), "values": result.energy},
        "nfe": {**result.nfe, "sampling": result.sampling_nfe},
        **({"trace_sd": dict(result.trace_sd)} if result.trace_sd else {}),
        "floor": {"energy_distance": result.floor},
        "protocol": {
            "data": data,
            "reference": f"test split, {count} points; nats of the standardised data",
            "likelihood": f"exact trace, joint control at {settings.rtols[-1]:g} where there is a solver",
            "samples": settings.samples,
            "seeds": settings.seeds,
            "trace_sd": "sd of the estimated ln p of a point, over draws of the probe, on a fixed grid",
        },
    }
