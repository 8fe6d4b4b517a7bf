"""Find time grids for one trained model: its few steps are to end where its flow ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build
from isocline.app.plugin_stage import MadeGrid, SamplerGrids, flow_ends, write_grids
from isocline.datasets.storage import write_json
from isocline.randomness import derive_seed
from isocline.samplers.optimised_grid import optimise_grid
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Optimise grids for every sampler and budget; write ``data/grids/<item>/grid.json`` and the errors."""
    assert item is not None
    section = params["plugins"]["grid"]
    flow = flow_ends(item, section, params["accelerator"], derive_seed(params["seed"], "optimise-grid", item))
    search, grids, errors = build(section["search"]), {}, {}
    for name, sampler in section["samplers"].items():
        found = {}
        for nfe in section["nfe"]:
            with torch.inference_mode():
                made = optimise_grid(flow.denoiser, build(sampler), flow.noise, flow.ends, [nfe], search, flow.labels)
            found[nfe] = made[nfe]
            print(f"optimise-grid {item}: {name} at {nfe}, {found[nfe].error:.4g} from the flow's ends", flush=True)
        budgets = {nfe: MadeGrid(list(grid.times), grid.error) for nfe, grid in found.items()}
        grids[name] = SamplerGrids(sampler, budgets)
        errors[name] = {str(nfe): {"optimised": grid.error, **grid.errors} for nfe, grid in found.items()}
    write_grids(item, grids)
    document = {"grid_error": errors, "protocol": {key: section[key] for key in ("samples", "reference_nfe")}}
    write_json(Path(f"metrics/grid-{item}.json"), document)
    run.document(document)
    run.tag("isocline.teacher", item)
