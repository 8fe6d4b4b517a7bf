"""Trained models are analysed by name or by run; tables, figures and metrics are where they should be."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from isocline import cli
from isocline.app.analysis import analyse, subject_of, write_analysis
from isocline.app.artifacts import build, save_model
from isocline.app.gate import flatten
from isocline.app.judge_files import save_judge
from isocline.datasets.images import Digits
from isocline.datasets.storage import write_tensors
from isocline.dynamics.readings.settings import AnalysisSettings

ROOT = Path(__file__).parents[2]
LENGTH, VOCABULARY = 8, 11
GAUSSIAN = {
    "_target_": "isocline.processes.gaussian.GaussianProcess",
    "schedule": {"_target_": "isocline.processes.schedule.LinearSchedule"},
    "prediction": {"_target_": "isocline.processes.prediction.VelocityPrediction"},
}
PATCHES = {
    "_target_": "isocline.networks.transformer.PatchTransformer",
    **{"channels": 1, "size": 8, "patch": 4, "width": 8, "depth": 2, "heads": 2},
}
TOKENS = {"vocab_size": VOCABULARY, "length": LENGTH, "width": 8, "depth": 2, "heads": 2}
ABSORBING = {
    "_target_": "isocline.processes.kernel.AbsorbingKernel",
    "vocab_size": VOCABULARY,
    "schedule": {"_target_": "isocline.processes.token_schedule.LinearSurvival"},
}
DIRICHLET = {"_target_": "isocline.processes.dirichlet_path.DirichletPath", "vocab_size": VOCABULARY}
READINGS = {
    "decision": {"samples": 6, "steps": 3, "folds": 2},
    "commitment": {"samples": 3, "nfe": 3},
    "depth": {"samples": 4},
    "geometry": {"samples": 3, "steps": 3},
    "fixed_points": {"samples": 2, "times": [0.9], "steps": 2, "products": 3},
    "attractors": {"samples": 3, "times": [0.9], "steps": 2, "iterations": 30},
    "continuation": {"samples": 2, "times": [0.9, 0.8], "steps": 2, "iterations": 30, "products": 3},
    "lyapunov": {"samples": 2, "exponents": 2, "steps": 2, "rounds": 1},
}
FILES = {
    "decision": "DecisionReading", "commitment": "CommitmentReading", "depth": "DepthReading",
    "geometry": "GeometryReading", "fixed_points": "FixedPointsReading", "attractors": "AttractorsReading",
    "continuation": "ContinuationReading", "lyapunov": "LyapunovReading",
}  # fmt: skip
SECTION = {
    "_target_": "isocline.dynamics.readings.settings.AnalysisSettings",
    "readings": {
        name: {"_target_": f"isocline.dynamics.readings.{name}.{kind}", **READINGS[name]}
        for name, kind in FILES.items()
    },
}


def save(name: str, modality: str, network: dict, process: dict | None, objective: str) -> None:
    torch.manual_seed(0)
    made = build(network)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    config = {"name": name, "modality": modality, "process": process, "network": network}
    objective = {"_target_": f"isocline.objectives.{objective}"}
    save_model(Path("data/models") / name, made, {**config, "objective": objective}, [{"step": 1}], process=None)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        save("flow", "images", PATCHES, GAUSSIAN, "matching.DenoisingMatching")
        token = {"_target_": "isocline.networks.transformer.TokenTransformer", **TOKENS, "time_conditioned": False}
        save("ar", "text", {**token, "causal": True}, None, "autoregressive.AutoregressiveObjective")
        save("masked", "text", token, ABSORBING, "masked.MaskedDiffusion")
        soft = {"_target_": "isocline.networks.soft_token_transformer.SoftTokenTransformer", **TOKENS}
        save("simplex", "text", soft, DIRICHLET, "simplex_flow.SimplexFlow")
        judge = {"_target_": "isocline.metrics.judge_image.ImageJudge", "channels": 1, "size": 8, "classes": 10}
        judge |= {"width": 4, "num_features": 6}
        save_judge(Path("data/judges/images"), build(judge), judge)
        pool = Digits().load().pool
        for split, part in (("train", slice(0, 60)), ("test", slice(60, 120))):
            kept = {"images": pool.images[part], "labels": pool.labels[part]}
            write_tensors(Path(f"data/images/{split}.safetensors"), kept)
            stream = torch.Generator().manual_seed(0)
            tokens = torch.randint(VOCABULARY - 1, (20, LENGTH), generator=stream)
            write_tensors(Path(f"data/text/{split}.safetensors"), {"tokens": tokens})
        sampler = {
            "ar": "autoregressive.AutoregressiveSampler",
            "masked": "discrete.AncestralSampler",
            "simplex": "simplex.SimplexSampler",
        }
        params = {
            "seed": 0,
            "threads": 1,
            "accelerator": "cpu",
            "evaluation": {"analysis": SECTION},
            "models": {
                "flow": {},
                **{n: {"sampler": {"_target_": f"isocline.samplers.{path}"}} for n, path in sampler.items()},
            },
        }
        Path("params.yaml").write_text(json.dumps(params))
    return root


@pytest.fixture
def project(models, tmp_path, monkeypatch) -> Path:
    shutil.copytree(models, tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "p"


def table(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def sampler(name: str) -> dict | None:
    return json.loads(Path("params.yaml").read_text())["models"][name].get("sampler")


EXPECTED = {
    "flow": {"decision", "geometry", "fixed_points", "attractors", "continuation", "lyapunov"},
    "ar": {"commitment", "depth", "geometry", "lyapunov"},
    "masked": {"commitment", "depth", "geometry", "lyapunov"},
    "simplex": {"commitment", "depth", "geometry", "lyapunov"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_of_each_kind_of_model_what_makes_sense_is_read_and_written_alike_each_time(project, name) -> None:
    settings: AnalysisSettings = build(SECTION)
    contents = []
    for turn in ("a", "b"):
        analysis = analyse(subject_of(Path("data/models") / name, sampler(name)), settings, 5)
        files = write_analysis(analysis, Path(turn))
        contents.append({path.name: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert set(analysis.findings) == EXPECTED[name]
    assert set(analysis.findings) | set(analysis.refused) == set(READINGS)
    document = analysis.document()
    assert all(math.isfinite(reading.value) for _, reading in flatten(document))
    assert any(reading.se is not None for _, reading in flatten(document))
    assert set(document["protocol"]) == set(READINGS)
    for path in Path("a").glob("*.csv"):
        assert table(path), path
    for path in Path("a").glob("*.svg"):
        assert ET.parse(path).getroot().tag.endswith("svg")
    for what in ("geometry",) if name != "flow" else ("decision", "axes", "splitting"):
        assert Path("a", f"{what}.csv").exists()


def test_a_reading_draws_the_same_whichever_others_are_made(project) -> None:
    subject, settings = subject_of(Path("data/models/ar"), sampler("ar")), build(SECTION)
    alone, together = (analyse(subject, s, 1).findings["geometry"] for s in (settings.only(["geometry"]), settings))
    assert alone.metrics == together.metrics


def test_a_model_is_analysed_by_name_without_a_store(project, capsys) -> None:
    assert cli.run(["analyse", "ar", "--only", "geometry,Depth", "--samples", "4", "--out", "here"]) == 0
    out = capsys.readouterr().out
    for part in ("reading geometry", "planarity", "loss_rise.block_2", "not tracked: there is no store"):
        assert part in out, out
    assert {"metrics.json", "lens.csv", "blocks.svg", "axes.csv"} <= {path.name for path in Path("here").iterdir()}
    document = json.loads(Path("here/metrics.json").read_text())
    assert document["geometry"]["planarity"]["n"] == 4
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["flaw"], ["flaw", "did you mean 'flow'"]),
        (["flow", "--only", "geometri"], ["geometri", "decision, commitment"]),
        (["flow", "--only", "commitment"], ["nothing can be read of flow", "writes no tokens"]),
        (["ar", "--out", "params.yaml"], ["params.yaml", "folder"]),
        (["ar", "--out", "data"], ["data", "other files"]),
        (["ar", "--out", "no/where"], ["no/where", "cannot be written"]),
    ],
)
def test_what_cannot_be_analysed_is_one_line(project, capsys, arguments, parts) -> None:
    assert cli.run(["analyse", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert not Path("analysis-flow").exists()


@pytest.mark.slow
def test_metrics_and_files_are_logged_to_the_run_that_made_the_model(project, capsys) -> None:
    from isocline.tracking.provenance import digest
    from isocline.tracking.store import connect

    client, experiment = connect()
    made = client.create_run(experiment, tags={"out.data/models/ar": digest(Path("data/models/ar"))}).info.run_id
    client.set_terminated(made)
    for run in ("ar", made):
        assert cli.run(["analyse", run, "--only", "geometry", "--samples", "3", "--out", f"to-{run}"]) == 0
        assert f"logged to run {made}" in capsys.readouterr().out
    found = client.get_run(made).data.metrics
    assert found["analysis/geometry/planarity"] > 0
    assert found["analysis/geometry/planarity/n"] == 3
    assert {"analysis/axes.csv", "analysis/metrics.json"} <= {f.path for f in client.list_artifacts(made, "analysis")}
    assert cli.run(["analyse", "masked", "--only", "geometry", "--samples", "3", "--out", "other"]) == 0
    assert "no run in" in capsys.readouterr().out
    assert cli.run(["analyse", "0" * 32]) == 1
    assert "no MLflow run" in capsys.readouterr().err


class Run:
    """What the stage said."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.documents: list[dict] = []

    def artifact(self, path, folder=""):
        self.files.append(f"{folder}/{Path(path).name}")

    def document(self, document):
        self.documents.append(document)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def test_the_stage_writes_metrics_and_files_and_logs_both(project) -> None:
    spec = importlib.util.spec_from_file_location("stage_analyse", ROOT / "pipeline" / "analyse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run, params = Run(), json.loads(Path("params.yaml").read_text())
    module.main(run, params, "masked")
    document = json.loads(Path("metrics/analyse-masked.json").read_text())
    assert document == json.loads(json.dumps(run.documents[0]))
    assert {"geometry", "depth", "commitment", "lyapunov", "protocol"} == set(document)
    written = {f"analysis/{path.name}" for path in Path("data/analyses/masked").iterdir()}
    assert written == set(run.files)
    assert {"analysis/commitment.csv", "analysis/lens.svg"} <= written
