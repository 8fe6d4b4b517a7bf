"""Models are found by name, path or run; images and text come out; what does not fit is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from isocline import cli
from isocline.app.artifacts import save_model
from isocline.app.generate import resolve_model
from isocline.datasets.tokenizer import CharacterTokenizer

ROOT = Path(__file__).parents[2]
PATCH = {"channels": 1, "size": 8, "patch": 4, "width": 8, "depth": 1, "heads": 2, "classes": 0}
TOKENS = {"vocab_size": 6, "length": 8, "width": 8, "depth": 1, "heads": 2, "causal": False, "time_conditioned": False}
GAUSSIAN = {
    "_target_": "isocline.processes.gaussian.GaussianProcess",
    "schedule": {"_target_": "isocline.processes.schedule.LinearSchedule"},
    "prediction": {"_target_": "isocline.processes.prediction.VelocityPrediction"},
}
ABSORBING = {
    "_target_": "isocline.processes.kernel.AbsorbingKernel",
    "vocab_size": 6,
    "schedule": {"_target_": "isocline.processes.token_schedule.LinearSurvival"},
}


def save(root, name, modality, network, process, objective):
    torch.manual_seed(0)
    config = {"name": name, "modality": modality, "teacher": None, "process": process, "network": network}
    save_model(root / "data" / "models" / name, instantiate(network), {**config, "objective": objective}, [{"step": 1}])


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    network = {"_target_": "isocline.networks.transformer.PatchTransformer", **PATCH}
    save(tmp_path, "flow", "images", network, GAUSSIAN, {"_target_": "isocline.objectives.matching.DenoisingMatching"})
    network = {"_target_": "isocline.networks.transformer.TokenTransformer", **TOKENS}
    save(tmp_path, "masked", "text", network, ABSORBING, {"_target_": "isocline.objectives.masked.MaskedDiffusion"})
    CharacterTokenizer(6).train([], "abcd ").save(tmp_path / "data/text/tokenizer.json")
    normalise = {"_target_": "isocline.datasets.text.Normalisation", "lowercase": True}
    (tmp_path / "data/text/card.json").write_text(json.dumps({"normalise": normalise}))
    return tmp_path


def test_sampling_writes_a_grid_that_depends_on_the_seed_alone(project, capsys):
    grids = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["sample", "flow", "--n", "5", "--sampler", "euler", "--nfe", "3", "--seed", str(seed)]
        assert cli.run([*arguments, "--out", f"{name}.png"]) == 0, capsys.readouterr().err
        grids.append((project / f"{name}.png").read_bytes())
    assert grids[0] == grids[1] != grids[2]
    assert Image.open(project / "a.png").mode == "L"
    assert "3 evaluations" in capsys.readouterr().out


def test_text_begins_with_the_prompt(project, capsys):
    arguments = ["generate", "masked", "--sampler", "ancestral", "--prompt", "ABBA", "--nfe", "4", "--n", "2"]
    assert cli.run(arguments) == 0, capsys.readouterr().err
    texts = capsys.readouterr().out.splitlines()
    assert len(texts) == 2
    assert all(text.startswith("abba") and len(text) == 8 for text in texts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sample", "masked", "--sampler", "euler"], ["masked", "isocline generate"]),
        (["generate", "masked", "--sampler", "ancestral", "--prompt", "abba abba"], ["9 of 8 tokens"]),
        (["generate", "masked", "--sampler", "ancestral", "--prompt", "xa"], ["'x'"]),
        (["generate", "masked", "--sampler", "ancestral", "--length", "9"], ["--length 9", "8"]),
        (["generate", "masked", "--sampler", "unknown"], ["unknown", "ancestral"]),
        (["sample", "flow", "--sampler", "euler", "--out", "nowhere/x.png"], ["nowhere", "make it first"]),
        (["sample", "flow"], ["params.yaml", "isocline compose"]),
        (["sample", "flaw", "--sampler", "euler"], ["did you mean 'flow'"]),
    ],
)
def test_what_does_not_fit_is_one_line(project, capsys, arguments, parts):
    assert cli.run(arguments) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert not list(project.glob("*.png"))


def test_damaged_weights_are_named_with_the_cure(project, capsys):
    path = project / "data" / "models" / "flow" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert cli.run(["sample", "flow", "--sampler", "euler"]) == 1
    assert "weights.safetensors" in capsys.readouterr().err


def test_a_model_is_found_by_name_and_by_path(project):
    assert resolve_model("flow", Path()) == Path("data/models/flow")
    assert resolve_model("data/models/flow", Path()) == Path("data/models/flow")


@pytest.mark.slow
def test_a_model_is_found_by_the_run_that_made_it(project):
    from isocline.tracking.provenance import digest
    from isocline.tracking.store import connect

    client, experiment = connect()
    tag = {"out.data/models/flow": digest(Path("data/models/flow"))}
    made = client.create_run(experiment, tags=tag).info.run_id
    other = client.create_run(experiment, tags={"out.data/models/flow": "0" * 32}).info.run_id
    none = client.create_run(experiment).info.run_id
    assert resolve_model(made, Path()) == Path("data/models/flow")
    with pytest.raises(ValueError, match="dvc checkout"):
        resolve_model(other, Path())
    with pytest.raises(ValueError, match="made no model"):
        resolve_model(none, Path())
