"""The stages of optimised grids, AMED and the study of samplers, on a small network that was hardly trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.pipeline.small_images import prepare_images, stage

from isocline.app.compose import compose
from isocline.app.gate import direction_of, flatten

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


def test_a_grid_is_found_a_predictor_trained_and_the_samplers_compared(tmp_path: Path, monkeypatch) -> None:
    params = compose(SMALL, ROOT).config
    monkeypatch.chdir(tmp_path)
    prepare_images(params["models"]["flow"])
    runs = {}
    for name in ("optimise_grid", "amed", "model_statistics", "study_solvers"):
        runs[name] = Run(tmp_path / name)
        runs[name].directory.mkdir()
        stage(name)(runs[name], params, "flow")
    assert all(runs[name].documents for name in ("optimise_grid", "amed", "study_solvers"))
    assert (
        runs["optimise_grid"].tags == runs["amed"].tags == runs["model_statistics"].tags == {"isocline.teacher": "flow"}
    )

    grids = json.loads(Path("data/grids/flow/grid.json").read_text())
    steps = {name: [len(grid["times"]) for grid in made["budgets"].values()] for name, made in grids.items()}
    assert steps == {"adams_bashforth": [5], "dpm_solver_2": [3]}
    errors = json.loads(Path("metrics/grid-flow.json").read_text())["grid_error"]
    assert all(found["5"]["optimised"] <= min(found["5"].values()) for found in errors.values())
    nearest = min(errors, key=lambda name: errors[name]["5"]["optimised"])
    assert bool(load_file("data/amed/flow/weights.safetensors")["turns.5.midpoint"]) == (nearest == "dpm_solver_2")

    document = json.loads(Path("metrics/solvers-flow.json").read_text())
    made = {"ddim_optimised", "adams_bashforth_optimised", "dpm_solver_2_optimised", "dpm_v3", "amed"}
    assert set(document["frechet"]) == set(document["rmse"]) == set(params["evaluation"]["solvers"]["samplers"]) | made
    assert document["best"]["5"]["free"] not in made
    readings = dict(flatten(document, "solvers-flow"))
    assert readings["solvers-flow.frechet.ddim.5"].se > 0
    assert direction_of("solvers-flow.rmse.ddim.5") == direction_of("solvers-flow.frechet.ddim.5") == "lower"
    header, row = Path("plots/solvers-flow.csv").read_text().splitlines()
    assert header.startswith("nfe,best,best_sd,")
    assert float(row.split(",")[1]) == pytest.approx(min(c["5"]["mean"] for c in document["frechet"].values()))


def test_what_no_grid_was_made_for_is_named(tmp_path: Path, monkeypatch) -> None:
    more = ["plugins.amed.nfe=[5,6]", "evaluation.solvers.on_optimised={ddim:deis}"]
    params = compose([*SMALL, *more], ROOT).config
    monkeypatch.chdir(tmp_path)
    prepare_images(params["models"]["flow"])
    for name in ("optimise_grid", "model_statistics"):
        (tmp_path / name).mkdir()
        stage(name)(Run(tmp_path / name), params, "flow")
    with pytest.raises(ValueError, match=r"AMED at 6 .* add 6 to plugins\.grid\.nfe"):
        stage("amed")(Run(tmp_path), params, "flow")
    with pytest.raises(ValueError, match=r"on_optimised\.ddim=deis: no grid .* adams_bashforth, dpm_solver_2; add"):
        stage("study_solvers")(Run(tmp_path), params, "flow")
