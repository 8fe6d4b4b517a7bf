"""The stages of optimised grids, AMED and the study of samplers, on a small network that was hardly trained."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isocline.app.artifacts import build, save_model
from isocline.app.compose import compose
from isocline.app.gate import direction_of, flatten
from isocline.app.judge_files import save_judge
from isocline.datasets.images import Digits
from isocline.datasets.storage import write_tensors

ROOT = Path(__file__).parents[2]
SMALL = ["profile=smoke", "plugins.amed.trainer.steps=2", "plugins.grid.nfe=[5]"]

pytestmark = pytest.mark.slow


class Run:
    """Keeps documents and tags, takes everything else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents: list[dict] = []
        self.tags: dict[str, str] = {}

    def tag(self, name, value):
        self.tags[name] = value

    def document(self, document):
        self.documents.append(document)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def stage(name: str):
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "pipeline" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def prepare(section: dict) -> None:
    """Write an image model, a judge and images as the earlier stages would."""
    shape = {"channels": 1, "size": 8}
    torch.manual_seed(0)
    network = {"_target_": "isocline.networks.unet.UNet", **shape, "width": 8, "multipliers": [1, 1]}
    made = build(network)
    torch.nn.init.normal_(made.last[-1].weight, std=0.05)
    config = {"name": "flow", "modality": "images", "process": section["process"], "network": network}
    save_model(
        Path("data/models/flow"), made, {**config, "objective": section["objective"]}, [{"step": 1, "loss": 1.0}]
    )
    judge = {
        "_target_": "isocline.metrics.judge_image.ImageJudge",
        **shape,
        "classes": 10,
        "width": 4,
        "num_features": 6,
    }
    save_judge(Path("data/judges/images"), build(judge), judge)
    arrays = Digits().load().pool
    for split, rows in (("train", slice(0, 60)), ("test", slice(60, 120))):
        images = {"images": arrays.images[rows], "labels": arrays.labels[rows]}
        write_tensors(Path(f"data/images/{split}.safetensors"), images)


def test_a_grid_is_found_a_predictor_trained_and_the_samplers_compared(tmp_path: Path, monkeypatch) -> None:
    params = compose(SMALL, ROOT).config
    monkeypatch.chdir(tmp_path)
    prepare(params["models"]["flow"])
    runs = {}
    for name in ("optimise_grid", "amed", "model_statistics", "study_solvers"):
        runs[name] = Run(tmp_path / name)
        runs[name].directory.mkdir()
        stage(name)(runs[name], params, "flow")
    assert all(runs[name].documents for name in ("optimise_grid", "amed", "study_solvers"))
    assert (
        runs["optimise_grid"].tags == runs["amed"].tags == runs["model_statistics"].tags == {"isocline.teacher": "flow"}
    )

    times = json.loads(Path("data/grids/flow/grid.json").read_text())["times"]
    assert [len(grid) for grid in times.values()] == [5]
    errors = json.loads(Path("metrics/grid-flow.json").read_text())["grid_error"]["5"]
    assert errors["optimised"] <= min(errors.values())
    assert "turns.5.positions" in load_file("data/amed/flow/weights.safetensors")

    document = json.loads(Path("metrics/solvers-flow.json").read_text())
    made = {"ddim_optimised", "adams_bashforth_optimised", "dpm_v3", "amed"}
    assert set(document["frechet"]) == set(document["rmse"]) == set(params["evaluation"]["solvers"]["samplers"]) | made
    assert document["best"]["5"]["free"] not in made
    readings = dict(flatten(document, "solvers-flow"))
    assert readings["solvers-flow.frechet.ddim.5"].se > 0
    assert direction_of("solvers-flow.rmse.ddim.5") == direction_of("solvers-flow.frechet.ddim.5") == "lower"
    header, row = Path("plots/solvers-flow.csv").read_text().splitlines()
    assert header.startswith("nfe,best,best_sd,")
    assert float(row.split(",")[1]) == pytest.approx(min(c["5"]["mean"] for c in document["frechet"].values()))
