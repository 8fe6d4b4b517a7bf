"""Adapters as files: peft reads them, they go on fine-tunes of their teacher, and say where they do not fit."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from isocline import cli
from isocline.app.adapters import load_adapter, save_adapter, state_digest, with_adapter
from isocline.app.artifacts import load_model, save_model
from isocline.app.student_network import start_network

ROOT = Path(__file__).parents[2]
LINEAR = {
    "_target_": "isocline.processes.gaussian.GaussianProcess",
    "schedule": {"_target_": "isocline.processes.schedule.LinearSchedule"},
    "prediction": {"_target_": "isocline.processes.prediction.VelocityPrediction"},
}
MATCHING = {"_target_": "isocline.objectives.matching.DenoisingMatching"}
UNET = {"_target_": "isocline.networks.unet.UNet", "channels": 1, "size": 8, "width": 8, "multipliers": [1, 2]}
ADAPTED = {
    "_target_": "isocline.networks.adapter.adapted",
    "base": {"_target_": "isocline.networks.unet.UNet", "_partial_": True},
    "rank": 2,
}
T, X = torch.tensor([0.2, 0.9]), torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)


def saved(root, name, section=UNET, process=LINEAR, network=None, teacher=None):
    """A model on disk, of random weights unless its network is given."""
    network = network_of(section, len(name)) if network is None else network
    config = {"name": name, "modality": "images", "teacher": teacher, "process": process, "network": section}
    save_model(root / name, network, {**config, "objective": MATCHING}, [{"step": 1}])
    return root / name


def network_of(section, seed):
    torch.manual_seed(seed)
    network = instantiate(section)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture
def student(tmp_path):
    """A student that started from its teacher and whose adapter moved, with its folder."""
    teacher = load_model(saved(tmp_path, "teacher"))
    network, section = start_network(teacher, {"network": ADAPTED, "start": "teacher"}, "students.lora", 0)
    assert torch.equal(network(T, X), teacher.network(T, X))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    folder = saved(tmp_path, "lora", section, network=network, teacher="teacher")
    save_adapter(folder, network, "teacher")
    return network, folder


def test_a_student_starts_as_its_teacher_and_is_read_back_without_it(student, tmp_path):
    network, folder = student
    (tmp_path / "teacher" / "weights.safetensors").unlink()
    assert torch.equal(load_model(folder).network(T, X), network(T, X))


def test_the_adapter_on_its_teacher_is_the_student(student, tmp_path):
    network, folder = student
    base = load_model(tmp_path / "teacher")
    assert load_adapter(folder).base == state_digest(base.network.state_dict())
    made = with_adapter(base, load_adapter(folder))
    assert torch.equal(made.network(T, X), network(T, X))
    assert not any(parameter.requires_grad for parameter in made.network.parameters())


def test_the_adapter_on_a_fine_tune_adds_the_same_products_to_its_weights(student, tmp_path):
    network, folder = student
    tuned = saved(tmp_path, "fine-tune")
    base = load_model(tuned).network.state_dict()
    made = with_adapter(load_model(tuned), load_adapter(folder)).network
    assert load_adapter(folder).base != state_digest(base)
    assert all(torch.equal(made.base()[name], tensor) for name, tensor in base.items())
    assert all(torch.equal(made.adapter()[name], tensor) for name, tensor in network.adapter().items())


def test_peft_reads_the_adapter_and_computes_the_same(student, tmp_path):
    from peft import PeftModel

    network, folder = student
    base = load_model(tmp_path / "teacher").network
    made = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    assert torch.equal(made(T, X), network(T, X))


def test_the_files_are_the_same_from_run_to_run(student):
    network, folder = student
    names = ("adapter_model.safetensors", "adapter_config.json", "card.yaml")
    before = [(folder / "adapter" / name).read_bytes() for name in names]
    save_adapter(folder, copy.deepcopy(network), "teacher")
    assert [(folder / "adapter" / name).read_bytes() for name in names] == before
    targets = json.loads((folder / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(network.layers)


def test_a_model_without_adapter_writes_none_and_says_so(tmp_path):
    folder = saved(tmp_path, "plain")
    save_adapter(folder, load_model(folder).network, "teacher")
    assert not (folder / "adapter").exists()
    with pytest.raises(FileNotFoundError, match="plain has no adapter; students whose network is"):
        load_adapter(folder)


@pytest.mark.parametrize(
    ("section", "process", "message"),
    [
        ({**UNET, "width": 16}, LINEAR, r"for other it would have to be .*; it fits teacher and its fine-tunes"),
        ({**UNET, "multipliers": [1]}, LINEAR, r"the network of other has no layer down\.1\.conv1, which the adapter"),
        (
            UNET,
            {**LINEAR, "prediction": {"_target_": "isocline.processes.prediction.NoisePrediction"}},
            r"the adapter of teacher is for another process than other's",
        ),
    ],
)
def test_an_adapter_is_refused_where_it_does_not_fit(student, tmp_path, section, process, message):
    _, folder = student
    other = load_model(saved(tmp_path, "other", section, process))
    with pytest.raises(ValueError, match=message):
        with_adapter(other, load_adapter(folder))


def test_two_adapters_are_refused(student):
    _, folder = student
    with pytest.raises(ValueError, match="lora has an adapter of its own; put the other one on its teacher, teacher"):
        with_adapter(load_model(folder), load_adapter(folder))


def test_a_damaged_adapter_is_named(student, tmp_path):
    _, folder = student
    weights = folder / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(folder)
    (folder / "adapter" / "card.yaml").write_text("rank: 2\n")
    with pytest.raises(ValueError, match="lacks teacher"):
        load_adapter(folder)


@pytest.fixture
def project(student, tmp_path, monkeypatch):
    """The student's and its teacher's models in a project."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    sampler = {"_target_": "isocline.samplers.consistency.ConsistencySampler"}
    (tmp_path / "params.yaml").write_text(json.dumps({"students": {"lora": {"sampler": sampler}}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_sampled_with_the_adapter_of_a_student_and_its_sampler(project):
    saved(project, "fine-tune")
    pictures = []
    for arguments in (["lora"], ["teacher", "--adapter", "lora"], ["fine-tune", "--adapter", "lora"]):
        assert cli.run(["sample", *arguments, "--n", "2", "--nfe", "2", "--out", "grid.png"]) == 0
        pictures.append(Path("grid.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teacher", "--adapter", "teacher", "--sampler", "euler"], "teacher has no adapter; students whose network"),
        (["teacher", "--adapter", "lara"], "no model 'lara' under data/models; did you mean 'lora'?"),
        (["narrow", "--adapter", "lora"], "the network of narrow has no layer down.1.conv1, which the adapter changes"),
        (["latent", "--adapter", "lora"], "latent and lora are models of different latent spaces"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_one_line(project, capsys, arguments, message):
    saved(project, "narrow", {**UNET, "multipliers": [1]})
    (saved(project, "latent") / "autoencoder").mkdir()
    assert cli.run(["sample", *arguments, "--n", "1", "--nfe", "1", "--out", "grid.png"]) == 1
    assert message in capsys.readouterr().err
