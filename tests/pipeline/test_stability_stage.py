"""The stability stage on small networks that were hardly trained: an image model and a density."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from isocline.app.artifacts import build, save_model
from isocline.app.compose import compose
from isocline.app.gate import direction_of, flatten
from isocline.app.judge_files import save_judge
from isocline.datasets.images import Digits
from isocline.datasets.storage import write_tensors

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
    shape = {"channels": 1, "size": 8}
    torch.manual_seed(0)
    section = params["models"]["flow"]
    network = {"_target_": "isocline.networks.unet.UNet", **shape, "width": 8, "multipliers": [1, 1]}
    made = build(network)
    torch.nn.init.normal_(made.last[-1].weight, std=0.05)
    config = {"modality": "images", "process": section["process"], "network": network}
    whole = {"name": "flow", **config, "objective": section["objective"]}
    save_model(Path("data/models/flow"), made, whole, [{"step": 1, "loss": 1.0}])
    density = params["densities"]["cnf_moons"]
    whole = {"name": "cnf_moons", "modality": "points", **{key: density[key] for key in ("network", "objective")}}
    save_model(Path("data/models/cnf_moons"), build(density["network"]), whole, [{"step": 1, "loss": 1.0}])
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


def test_a_flow_and_a_density_are_measured_and_written_bit_by_bit_alike(tmp_path: Path, monkeypatch) -> None:
    params = compose(SMALL, ROOT).config
    monkeypatch.chdir(tmp_path)
    prepare(params)
    spec = importlib.util.spec_from_file_location("stage_stability", ROOT / "pipeline/study_stability.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = Run()
    for name in ("flow", "cnf_moons"):
        module.main(run, params, name)
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
    module.main(run, params, "cnf_moons")
    assert run.documents[2] == density
    assert before == {path: path.read_bytes() for path in Path("data/stability").rglob("*.csv")}
