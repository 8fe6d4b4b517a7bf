"""The stages of densities, run one after the other on a small configuration in an empty folder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from isocline.app.compose import compose
from isocline.app.gate import flatten

ROOT = Path(__file__).parents[2]
SMALL = [
    "profile=smoke",
    "data.points.moons.dataset.size=600",
    "data.points.moons.splits.test=200",
    "densities.cnf_moons.trainer.steps=3",
    "densities.coupling_moons.trainer.steps=3",
    "+density@densities.taynode_moons=taynode",
    "densities.taynode_moons.data=moons",
    "densities.taynode_moons.trainer.steps=3",
]

pytestmark = pytest.mark.slow


class Run:
    """Keeps documents and data sets, takes everything else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents: list[dict] = []
        self.sets: list[str] = []

    def dataset(self, name, digest, source, context):
        self.sets.append(name)

    def document(self, document):
        self.documents.append(document)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def stage(name: str):
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "pipeline" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_points_are_prepared_densities_trained_and_evaluated(tmp_path: Path, monkeypatch) -> None:
    params = compose(SMALL, ROOT).config
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "run")
    stage("prepare_points")(run, params, None)
    assert run.sets == ["moons-train", "moons-test", "digit_components-train", "digit_components-test"]
    card = json.loads(Path("data/points/moons/card.json").read_text())
    assert (card["dimension"], card["splits"]) == (2, {"train": {"rows": 400}, "test": {"rows": 200}})
    assert load_file("data/points/digits/train.safetensors")["points"].shape == (1297, 8)

    documents = {}
    for name in ("cnf_moons", "coupling_moons", "taynode_moons"):
        folder = Run(tmp_path / name)
        stage("train_density")(folder, params, name)
        stage("evaluate_density")(folder, params, name)
        documents[name] = json.loads(Path(f"metrics/evaluate-{name}.json").read_text())
        assert folder.documents
        assert {"samples", "log_density"} <= set(load_file(f"data/evaluations/{name}/density.safetensors"))
        assert json.loads(Path(f"metrics/train-{name}.json").read_text())["steps"] == 3
    assert list(documents["cnf_moons"]["nats_over_nfe"]) == ["4", "16"]
    assert list(documents["coupling_moons"]["nats_over_nfe"]) == ["1"]
    assert list(documents["taynode_moons"]["nats_over_nfe"]) == ["4", "16"]
    keys = {key for key, _ in flatten(documents["cnf_moons"], "m")}
    assert {"m.nats", "m.nats_over_nfe.16", "m.energy_distance", "m.nfe.rtol_1e-05", "m.trace_sd.hutchinson_1"} <= keys
    header, *rows = Path("plots/nfe-cnf_moons.csv").read_text().splitlines()
    assert (header, len(rows)) == ("nfe,nats,nats_sd", 2)


def test_a_dimension_that_is_not_the_datas_is_refused(tmp_path: Path, monkeypatch) -> None:
    params = compose(SMALL, ROOT).config
    params["data"]["points"]["moons"]["dim"] = 3
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data\.points\.moons\.dim = 3.*set it to 2"):
        stage("prepare_points")(Run(tmp_path), params, None)
