"""The stage that evaluates a classifier, on a network that was never trained."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isocline.app.artifacts import build, save_model
from isocline.datasets.images import Digits
from isocline.datasets.storage import write_tensors

ROOT = Path(__file__).parents[2]
SOLVERS = "isocline.solvers"
ADAPTIVE = {
    "_target_": "isocline.networks.ode_classifier.ODEClassifier",
    "stepper": {"_target_": f"{SOLVERS}.explicit.Bosh3"},
    "controller": {"_target_": f"{SOLVERS}.controller.PIDController", "rtol": 0.01, "atol": 0.01},
    "gradient": {"_target_": f"{SOLVERS}.gradient.DiscreteAdjoint"},
}
RESIDUAL = {"_target_": "isocline.networks.classifier.ResidualClassifier", "blocks": 2}
SETTINGS = {
    "_target_": "isocline.metrics.classification.ClassifierSettings",
    "images": 40,
    "batch_size": 25,
    "digits": [1, 2],
    "gradient_images": 2,
    "tolerance": 0.001,
    "gradients": {name: {"_target_": f"{SOLVERS}.gradient.{name}"} for name in ("Backpropagation", "DiscreteAdjoint")},
}


class Run:
    """Keeps times and documents and takes everything else."""

    def __init__(self):
        self.timings, self.documents = {}, []

    def timing(self, name, value):
        self.timings[name] = value

    def document(self, values):
        self.documents.append(values)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def evaluate(network):
    """Run the stage in the working directory; return the run."""
    spec = importlib.util.spec_from_file_location("stage_evaluate_classifier", ROOT / "pipeline/evaluate_classifier.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = Run()
    torch.manual_seed(0)
    section = {**network, "channels": 1, "size": 8, "classes": 10, "width": 8}
    objective = {"_target_": "isocline.objectives.classification.Classification"}
    config = {"name": "node", "modality": "images", "process": None, "network": section, "objective": objective}
    save_model(Path("data/models/node"), build(section), config, [{"step": 1, "loss": 1.0}])
    arrays = Digits().load().pool
    write_tensors(Path("data/images/test.safetensors"), {"images": arrays.images[:60], "labels": arrays.labels[:60]})
    module.main(run, {"seed": 0, "accelerator": "cpu", "evaluation": {"classifiers": SETTINGS}}, "node")
    return run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_writes_metrics_a_curve_and_what_it_said_of_every_image():
    run = evaluate(ADAPTIVE)
    document = json.loads(Path("metrics/evaluate-node.json").read_text())
    said = load_file("data/evaluations/node/outcomes.safetensors")
    assert said["right"].shape == said["nfe"].shape == (40,)
    assert document["accuracy"]["mean"] == pytest.approx(said["right"].double().mean())
    assert document["accuracy"]["low"] < document["accuracy"]["mean"] < document["accuracy"]["high"]
    assert document["nfe"]["mean"] == pytest.approx(said["nfe"].double().mean())
    assert document["accuracy_at"]["2"] == document["accuracy"]
    assert set(document["gradients"]) == {"Backpropagation", "DiscreteAdjoint"}
    assert document["gradients"]["DiscreteAdjoint"]["error"] < 1e-12
    rows = list(csv.DictReader(Path("plots/nfe-node.csv").read_text().splitlines()))
    assert [row["setting"] for row in rows] == ["1", "2"]
    assert float(rows[1]["nfe"]) == pytest.approx(document["nfe"]["mean"])
    assert run.documents[0]["parameters"] == document["parameters"] > 0


def test_times_go_to_the_tracker_and_outputs_are_the_same_twice():
    files = ("metrics/evaluate-node.json", "plots/nfe-node.csv", "data/evaluations/node/outcomes.safetensors")
    written = []
    for _ in range(2):
        run = evaluate(ADAPTIVE)
        assert run.timings["gradient_seconds_DiscreteAdjoint"] > 0
        assert "second" not in Path(files[0]).read_text()
        written.append([Path(file).read_bytes() for file in files])
    assert written[0] == written[1]


def test_a_residual_network_has_one_point_and_one_gradient():
    evaluate(RESIDUAL)
    document = json.loads(Path("metrics/evaluate-node.json").read_text())
    assert list(document["accuracy_at"]) == ["0"]
    assert list(document["gradients"]) == ["Backpropagation"]
    assert document["nfe_max"] == 2
