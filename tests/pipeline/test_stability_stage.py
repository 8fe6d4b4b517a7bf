"""The stability stage on small networks that were hardly trained: an image model and a density."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.pipeline.small_images import prepare_images, stage

from isocline.app.artifacts import build, save_model
from isocline.app.compose import compose
from isocline.app.gate import direction_of, flatten

ROOT = Path(__file__).parents[2]
QUALITY = "evaluation.stability.quality"
SMALL = [
    "profile=smoke",
    "evaluation.stability.sweep.largest_dense=8",
    *(f"{QUALITY}.{change}" for change in ("samples=8", "groups=2", "reference_nfe=4")),
]

pytestmark = pytest.mark.slow


class Run:
    """Keeps documents, takes everything else."""

    def __init__(self) -> None:
        self.documents: list[dict] = []

    def document(self, document):
        self.documents.append(document)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def prepare(params: dict) -> None:
    """Write a flow and a density, a judge and images as the earlier stages would."""
    prepare_images(params["models"]["flow"])
    density = params["densities"]["cnf_moons"]
    whole = {"name": "cnf_moons", "modality": "points", **{key: density[key] for key in ("network", "objective")}}
    save_model(Path("data/models/cnf_moons"), build(density["network"]), whole, [{"step": 1, "loss": 1.0}])


def test_a_flow_and_a_density_are_measured_and_written_bit_by_bit_alike(tmp_path: Path, monkeypatch) -> None:
    params = compose(SMALL, ROOT).config
    monkeypatch.chdir(tmp_path)
    prepare(params)
    run = Run()
    for name in ("flow", "cnf_moons"):
        stage("study_stability")(run, params, name)
    flow, density = run.documents

    quality = params["evaluation"]["stability"]["quality"]
    assert set(flow["frechet"]) == set(flow["rmse"]) == {*quality["fixed"], *quality["adaptive"]}
    assert "frechet" not in density
    assert set(density["nfe_at_error"]) >= {"bosh3", "rodas4"}
    assert "rodas4" in flow["protocol"]["not_run"]
    readings = dict(flatten(flow, "stability-flow"))
    assert readings["stability-flow.horizon"].se is not None
    assert direction_of("stability-flow.nfe_at_error.bosh3.1e-01") == "lower"

    tables = sorted(path.stem for path in Path("data/stability/flow").iterdir())
    assert tables == ["costs", "local", "path", "precision", "quality", "regions", "spectrum"]
    with Path("data/stability/flow/spectrum.csv").open() as file:
        radius = max(abs(complex(float(row["real"]), float(row["imag"]))) for row in csv.DictReader(file))
    written = json.loads(Path("metrics/stability-flow.json").read_text())
    assert written["spectral_radius"]["mean"] <= radius * (1 + 1e-6)
    header, *rows = Path("plots/stability-flow.csv").read_text().splitlines()
    assert header == "t,spectral_radius,lipschitz"
    assert len(rows) == len(params["evaluation"]["stability"]["shares"])

    before = {path: path.read_bytes() for path in Path("data/stability").rglob("*.csv")}
    stage("study_stability")(run, params, "cnf_moons")
    assert run.documents[2] == density
    assert before == {path: path.read_bytes() for path in Path("data/stability").rglob("*.csv")}
