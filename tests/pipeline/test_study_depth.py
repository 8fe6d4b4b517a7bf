"""The stage of the depth study on a little text: what it trains, measures and writes."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from isocline.app.gate import direction_of, flatten
from isocline.datasets.storage import write_tensors

ROOT = Path(__file__).parents[2]
TARGET = "isocline.networks.transformer.TokenTransformer"
DEPTH = "isocline.networks.depth"
EULER = {"_target_": TARGET, "vocab_size": 9, "length": 8, "relative": True}
IMPLICIT = {**EULER, "integrator": {"_target_": f"{DEPTH}.implicit_euler.ImplicitEuler", "_partial_": True}}
HEUN = {"_target_": "isocline.solvers.explicit.Heun"}
RK2 = {**EULER, "integrator": {"_target_": f"{DEPTH}.runge_kutta.RungeKutta", "_partial_": True, "stepper": HEUN}}

pytestmark = pytest.mark.slow


class Run:
    """Keeps what it is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.documents: list[dict] = []
        self.timings: dict[str, float] = {}

    def document(self, document):
        self.documents.append(document)

    def timing(self, name, value):
        self.timings[name] = value

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def parameters(seeds: int) -> dict:
    settings = {
        "_target_": "isocline.dynamics.depth_settings.DepthStudySettings",
        "depth": 2, "seeds": seeds, "sequences": 12, "stability_sequences": 2, "iterations": 2, "krylov_steps": 3,
        "pruning": 10.0,
    }  # fmt: skip
    average = {"_target_": "isocline.networks.ema.ExponentialMovingAverage", "_partial_": True, "decay": 0.5}
    study = {
        "settings": settings,
        "network": {"width": 16, "heads": 2, "causal": True, "relative": False, "time_conditioned": False},
        "vocab_size": 9,
        "objective": {"_target_": "isocline.objectives.autoregressive.AutoregressiveObjective"},
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01},
        "ema": average,
        "trainer": {"_target_": "isocline.training.settings.FitSettings", "steps": 4, "batch_size": 4, "log_every": 2},
    }
    variants = {"all": {"euler": EULER, "rk2": RK2, "implicit": IMPLICIT}}
    return {"seed": 0, "threads": 1, "accelerator": "cpu", "depth": {"study": study, "variants": variants}}


def study(directory: Path, seeds: int = 2) -> Run:
    draws = torch.Generator().manual_seed(0)
    for split in ("train", "valid"):
        rows = torch.randint(0, 8, (40, 8), generator=draws)
        write_tensors(Path(f"data/text/{split}.safetensors"), {"tokens": rows, "characters": torch.full((40,), 16)})
    spec = importlib.util.spec_from_file_location("study_depth", ROOT / "pipeline/study_depth.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = Run(directory / "run")
    module.main(run, copy.deepcopy(parameters(seeds)), "all")
    return run


def test_variants_are_compared_at_equal_parameters_and_at_equal_operations(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = study(tmp_path)
    document = json.loads(Path("metrics/depth-all.json").read_text())
    assert run.documents
    assert document["depth"]["rk2"] == {"parameters": 2, "flops": 1}
    assert document["parameters"]["rk2"]["parameters"] == document["parameters"]["euler"]["parameters"]
    assert document["flops_ratio"]["euler"] == {"parameters": 1.0, "flops": 1.0}
    assert document["flops_ratio"]["rk2"]["parameters"] > 1.5
    assert abs(document["flops_ratio"]["rk2"]["flops"] - 1) < 0.2
    assert document["evaluations"]["implicit"]["parameters"]["mean"] == 6
    # The ordinary network is its own match, so it is trained once for both comparisons.
    assert [name for name in run.timings if name.startswith("euler")] == ["euler_parameters_train_seconds"]
    assert document["bits_per_char"]["euler"]["parameters"] == document["bits_per_char"]["euler"]["flops"]

    bits = document["bits_per_char"]["rk2"]["parameters"]
    assert bits["n"] == len(bits["values"]) == 2
    assert bits["mean"] == pytest.approx(sum(bits["values"]) / 2)
    assert bits["values"][0] != bits["values"][1]
    readings = dict(flatten(document, "depth-all"))
    assert readings["depth-all.bits_per_char.rk2.flops"].se is not None
    assert direction_of("depth-all.bits_per_char.rk2.flops") == "lower"

    # Nothing moves a state by ten times its size: one iteration of each block is kept, which is Euler's step.
    pruning = document["pruning"]["implicit"]["parameters"]
    assert pruning["iterations"] == 6
    assert pruning["kept"]["mean"] == 2
    ordinary = document["flops_per_token"]["euler"]["parameters"]["mean"]
    assert pruning["flops_per_token"]["mean"] == ordinary
    growth = Path("data/depth/all/growth.csv").read_text().splitlines()
    assert growth[0].split(",")[:3] == ["layer", "euler.parameters", "euler.flops"]
    assert len(growth) == 1 + 3
    assert growth[-1].split(",")[4] == ""  # rk2 at equal operations has one layer


def test_the_study_is_the_same_from_run_to_run(tmp_path: Path, monkeypatch) -> None:
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        study(tmp_path / name, seeds=1)
        written.append((Path("metrics/depth-all.json").read_bytes(), Path("data/depth/all/growth.csv").read_bytes()))
    assert written[0] == written[1]
    bits = json.loads(written[0][0])["bits_per_char"]["rk2"]["parameters"]
    assert bits["n"] == 12  # one seed: the interval is over sequences
