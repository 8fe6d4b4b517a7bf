"""Compare samplers on one image model: quality and distance from the flow's end over function evaluations."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from isocline.app.artifacts import build, device_of, load_model, load_tensors
from isocline.app.evaluation_stage import write_curve, write_json
from isocline.app.judges import load_image_judge
from isocline.app.plugin_stage import read_grids, wrapped
from isocline.datasets.storage import write_bytes
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.solver_study import SolverStudy, SolverStudySettings, study_solvers
from isocline.processes.denoiser import Denoiser
from isocline.randomness import derive_seed
from isocline.report.pictures import png, tile
from isocline.samplers.amed import AMEDSampler
from isocline.samplers.dpm_v3 import with_statistics
from isocline.samplers.grid import GivenGrid
from isocline.samplers.model_statistics import ModelStatistics
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Study the samplers of model ``item``; write the metrics and the curves over NFE."""
    assert item is not None
    settings: SolverStudySettings = build(params["evaluation"]["solvers"])
    device, seed = device_of(params["accelerator"]), derive_seed(params["seed"], "study-solvers")
    model = load_model(Path("data/models") / item, device=device)
    train, test = (load_tensors(Path(f"data/images/{split}.safetensors"))["images"] for split in ("train", "test"))
    run.dataset_file("data/images/test.safetensors", context="test")
    statistics = ModelStatistics.from_tensors(load_tensors(Path(f"data/statistics/{item}/statistics.safetensors")))
    third = with_statistics(build(params["plugins"]["statistics"]["sampler"]), statistics)
    more = {f"{name}_optimised": settings.samplers[name].on(grid) for name, grid in _grids(settings, item).items()}
    denoiser = wrapped(Denoiser(model.network, model.process), settings.wrap, item)
    began = time.perf_counter()
    found = study_solvers(
        denoiser, ImageReference(load_image_judge(device=device), train, test), settings,
        {**more, "dpm_v3": third, "amed": AMEDSampler(f"data/amed/{item}/weights.safetensors")}, seed,
        classes=model.config["network"].get("classes", 0), device=device,
        progress=lambda line: print(f"study {item}: {line}", flush=True),
    )  # fmt: skip
    run.timing("study_seconds", time.perf_counter() - began)
    document = _document(found, settings, list(more))
    curves = {name: {n: point.frechet.estimate for n, point in curve.items()} for name, curve in found.points.items()}
    best = {nfe: found.points[found.best(nfe)][nfe].frechet.estimate for nfe in settings.nfe}
    write_curve(Path(f"plots/solvers-{item}.csv"), {"best": best, **curves})
    write_json(Path(f"metrics/solvers-{item}.json"), document)
    run.document(document)
    for nfe, sheet in found.sheets.items():
        picture = run.directory / f"samplers-nfe-{nfe:04d}.png"
        write_bytes(picture, png(tile(sheet.flatten(0, 1).numpy(), sheet.shape[1]).repeat(2, axis=0).repeat(2, axis=1)))
        run.artifact(picture, "samples")


def _document(found: SolverStudy, settings: SolverStudySettings, optimised: list[str]) -> dict[str, Any]:
    free = list(settings.samplers)
    shown = {nfe: {"free": found.best(nfe, free), "all": found.best(nfe)} for nfe in settings.nfe}
    points = found.points.items()
    return {
        "frechet": {name: {n: point.frechet.as_dict() for n, point in curve.items()} for name, curve in points},
        "rmse": {name: {n: point.rmse for n, point in curve.items()} for name, curve in points},
        "spent_nfe": {name: {n: point.spent for n, point in curve.items()} for name, curve in points},
        "best": shown,
        "excess": {nfe: {who: found.excess(name, nfe) for who, name in names.items()} for nfe, names in shown.items()},
        "reference": {"frechet": found.reference.as_dict()},
        "floor": {"frechet": found.floor.as_dict()},
        "protocol": {
            "samples": f"{settings.samples}, the same noise for all; jackknife over {settings.groups} groups",
            "rmse": f"of an image from the reference's end ({settings.reference_nfe} evaluations), mean over images",
            "excess": "Fréchet distance over the reference's, minus one; 95 % interval, paired",
            "made": [*optimised, "dpm_v3", "amed"],
        },
    }


def _grids(settings: SolverStudySettings, item: str) -> dict[str, GivenGrid]:
    """The optimised grid that each sampler is run on too."""
    made, found = read_grids(item), {}
    for name, owner in settings.on_optimised.items():
        if owner not in made:
            raise ValueError(
                f"evaluation.solvers.on_optimised.{name}={owner}: no grid was optimised for it, only for "
                f"{', '.join(made)}; add it to plugins.grid.samplers"
            )
        found[name] = made[owner].grid()
    return found
