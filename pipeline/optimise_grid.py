"""Find time grids for one trained model: its few steps are to end where its flow ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build
from isocline.app.plugin_stage import flow_ends
from isocline.datasets.storage import write_json
from isocline.randomness import derive_seed
from isocline.samplers.optimised_grid import optimise_grid
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Optimise a grid for every budget; write ``data/grids/<item>/grid.json`` and the errors before and after."""
    assert item is not None
    section = params["plugins"]["grid"]
    flow = flow_ends(item, section, params["accelerator"], derive_seed(params["seed"], "optimise-grid", item))
    sampler, search = build(section["sampler"]), build(section["search"])
    found = {}
    for nfe in section["nfe"]:
        with torch.inference_mode():
            made = optimise_grid(flow.denoiser, sampler, flow.noise, flow.ends, {nfe: nfe}, search, flow.labels)
        found[nfe] = made[nfe]
        print(f"optimise-grid {item}: {nfe} steps, distance {found[nfe].error:.4g} from the flow's ends", flush=True)
    times = {str(n): list(grid.times) for n, grid in found.items()}
    errors = {str(n): {"optimised": grid.error, **grid.errors} for n, grid in found.items()}
    write_json(Path("data/grids") / item / "grid.json", {"sampler": section["sampler"], "times": times})
    document = {"grid_error": errors, "protocol": {key: section[key] for key in ("samples", "reference_nfe")}}
    write_json(Path(f"metrics/grid-{item}.json"), document)
    run.document(document)
    run.tag("isocline.teacher", item)
