"""Models on disk, which device a configuration means, and which side of the parameters a stage is shown."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from isocline.app import artifacts, training_stage
from isocline.app.artifacts import build, class_labels, device_of, load_config, load_model, save_model
from isocline.app.declaration import declared_part
from isocline.app.errors import disk_full
from isocline.app.evaluation_stage import model_section
from isocline.datasets.storage import write_json
from isocline.distillation.reflow import Reflow
from isocline.networks.mlp import MLP
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule


def test_cpu_is_the_cpu_and_auto_takes_what_there_is() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto") == (torch.accelerator.current_accelerator() or torch.device("cpu"))


def test_an_accelerator_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="accelerator = cuda: this machine has none; use auto"):
        device_of("cuda")


def test_auto_takes_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
    assert [device_of(name) for name in ("auto", "gpu", "cuda")] == [found] * 3
    assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="accelerator = mps: this machine has cuda"):
        device_of("mps")


def test_a_model_is_found_on_the_side_that_dvc_declares() -> None:
    params = {"models": {"flow": {"sampler": 1}}, "students": {"reflow": {"sampler": 2}}}
    assert model_section(declared_part(params, ["models.flow.sampler"]), "flow")["sampler"] == 1
    assert model_section(declared_part(params, ["students.reflow.sampler"]), "reflow")["sampler"] == 2


CONFIG = {
    "name": "toy",
    "modality": "images",
    "teacher": None,
    "process": None,
    "network": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1},
    "objective": {"_target_": "torch.nn.MSELoss"},
    "rate": 1e-5,
}
HISTORY = [{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.25, "lr": 0.1}]


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    save_model(tmp_path / "toy", network, CONFIG, HISTORY)
    model = load_model(tmp_path / "toy")
    assert model.config == CONFIG
    assert all(torch.equal(tensor, model.network.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert (tmp_path / "toy" / "history.csv").read_text() == "step,loss,lr\n1,0.5,\n2,0.25,0.1\n"


@pytest.fixture
def disk_full_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let so many files through; the next is cut off in the middle of its write."""

    def arm(count: int) -> None:
        left = iter(range(count))

        def fsync(descriptor: int) -> None:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fsync)

    return arm


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("old", [False, True])
def test_a_model_whose_saving_broke_off_is_never_taken_for_complete(
    tmp_path: Path, disk_full_after: Callable[[int], None], written: int, old: bool
) -> None:
    directory = tmp_path / "toy"
    if old:
        save_model(directory, nn.Linear(2, 1), CONFIG, HISTORY)
    disk_full_after(written)
    with pytest.raises(OSError, match="No space left"):
        save_model(directory, nn.Linear(2, 1), CONFIG, HISTORY)
    assert list(directory.glob(".*")) == []
    with pytest.raises(FileNotFoundError, match=r"model\.yaml is missing"):
        load_model(directory)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "holds nothing, not a mapping"),
        (b"\n \n", "holds nothing, not a mapping"),
        (b"- name\n- network\n", "holds list"),
        (b"just words", "holds str"),
        (b"3", "holds int"),
        (b"name: [", "cannot be read as YAML"),
        (b"\xff\xfe", "cannot be read as YAML"),
        (b"name: toy\nmodality: images\nnetwork: ${gone}\nobjective: 1\n", "cannot be read as YAML"),
        (b"name: toy\nmodality: images\n", "lacks network, objective"),
    ],
)
def test_a_damaged_configuration_of_a_model_is_one_line_with_the_cure(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "model.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="model") as error:
        load_model(tmp_path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert found in message
    assert message.endswith(f"; delete {tmp_path} and run `isocline repro` again")
    assert "\n" not in message


def test_other_artefacts_ask_for_their_own_keys(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("network: {width: 3, rate: 1e-5}\n")
    assert load_config(tmp_path / "model.yaml", ["network"]) == {"network": {"width": 3, "rate": 1e-5}}


class Recorder:
    """Stands for a stage's run: takes everything."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def result() -> Any:
    return SimpleNamespace(network=nn.Linear(2, 1), history=HISTORY, seconds=1.0, samples_per_second=2.0)


def test_a_training_stage_writes_its_curve_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training_stage.finish(Recorder(), "toy", result())  # type: ignore[arg-type]
    summary = json.loads(Path("metrics/train-toy.json").read_text())
    assert summary == {"train_loss": 0.25, "steps": 2, "parameters": 3}
    assert Path("plots/train-toy.csv").read_text().startswith("step,loss,lr\n")


def test_a_students_summary_says_what_it_asked_of_its_teacher_and_what_its_pairs_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    distiller = Reflow(process, MLP(2, 4, 1))
    distiller.teacher(torch.ones(5), torch.ones(5, 2), None)
    write_json(Path("data/images/card.json"), {"splits": {}})
    write_json(Path("data/pairs/flow/card.json"), {"count": 6, "teacher_evaluations": 6 * 16})
    for data, costs in (
        ("data/images", {"teacher_evaluations": 5}),
        ("data/pairs/flow", {"teacher_evaluations": 5, "pairs_evaluations": 96}),
        ("data/nowhere", {"teacher_evaluations": 5}),
    ):
        found = training_stage.teacher_costs(distiller, Path(data))
        assert found == costs
        training_stage.finish(Recorder(), "toy", result(), found)  # type: ignore[arg-type]
        summary = json.loads(Path("metrics/train-toy.json").read_text())
        assert summary == {"train_loss": 0.25, "steps": 2, "parameters": 3, **costs}


def test_a_training_stage_on_a_full_disk_leaves_the_old_summary_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_full_after: Callable[[int], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("metrics/train-toy.json"), Path("plots/train-toy.csv")):
        path.parent.mkdir()
        path.write_text("old")
    disk_full_after(0)
    with pytest.raises(OSError, match="No space left") as error:
        training_stage.finish(Recorder(), "toy", result())  # type: ignore[arg-type]
    assert error.value.filename == "metrics/train-toy.json"
    with pytest.raises(OSError, match="No space left"):
        artifacts.write_history(Path("plots/train-toy.csv"), HISTORY)
    assert [path.read_text() for path in sorted(Path().glob("*/*"))] == ["old", "old"]


@pytest.fixture
def pairs_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The stage ``pairs`` with a teacher that moves nothing."""
    spec = importlib.util.spec_from_file_location("stage_pairs", Path(__file__).parents[2] / "pipeline" / "pairs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def stay(denoiser: Any, x1: torch.Tensor, steps: int, cond: torch.Tensor | None = None) -> Any:
        return SimpleNamespace(final=x1, stats=SimpleNamespace(nfe=torch.tensor([steps])))

    network = {"channels": 1, "size": 2}
    teacher = SimpleNamespace(
        network=None, process=None, config={"network": network}, sampler=SimpleNamespace(sample=stay)
    )
    monkeypatch.setattr(module, "load_model", lambda *args: teacher)
    monkeypatch.setattr(module, "Denoiser", lambda *args: None)
    monkeypatch.chdir(tmp_path)
    params = {
        "seed": 0,
        "accelerator": "cpu",
        "pairs": {"flow": {"count": 5, "nfe": 3, "batch_size": 2, "sampler": {"_target_": "heun"}}},
    }
    return lambda: module.main(Recorder(), params, "flow")


def test_pairs_are_written_with_their_card(pairs_main: Callable[[], None]) -> None:
    pairs_main()
    tensors = load_file("data/pairs/flow/pairs.safetensors")
    assert torch.equal(tensors["x0"], tensors["x1"])
    assert tensors["x0"].shape == (5, 1, 2, 2)
    card = json.loads(Path("data/pairs/flow/card.json").read_text())
    assert card["sampler"] == {"_target_": "heun"}
    assert (card["nfe"], card["count"], card["teacher"], card["teacher_evaluations"]) == (3, 5, "flow", 15)
    assert card["evaluations_per_pair"] == {"least": 3, "most": 3}


@pytest.mark.parametrize("written", [0, 1])
def test_pairs_whose_writing_broke_off_are_not_taken_for_complete(
    pairs_main: Callable[[], None], disk_full_after: Callable[[int], None], written: int
) -> None:
    disk_full_after(written)
    with pytest.raises(OSError, match="No space left"):
        pairs_main()
    left = [path.name for path in Path("data/pairs/flow").iterdir()]
    assert left == ["card.json"][:written]


def test_a_learned_schedule_is_saved_with_its_model_and_comes_back(tmp_path: Path) -> None:
    survival = {"_target_": "isocline.processes.learned_schedule.MonotoneSurvival", "width": 3}
    kernel = {"_target_": "isocline.processes.kernel.AbsorbingKernel", "vocab_size": 4, "schedule": survival}
    objective = {"_target_": "isocline.objectives.learned_schedule.LearnedScheduleDiffusion"}
    config = {**CONFIG, "modality": "text", "process": kernel, "objective": objective}
    process = build(kernel)
    built = build(objective, process=process)
    assert built.process is process  # what is trained is what is saved
    process.schedule.middles.data += 0.3
    save_model(tmp_path / "toy", nn.Linear(2, 1), config, HISTORY, process=process)
    model = load_model(tmp_path / "toy")
    assert torch.equal(model.process.schedule.middles, process.schedule.middles.detach())
    assert model.objective.schedule is model.process.schedule
    (tmp_path / "toy" / "schedule.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"schedule\.safetensors is missing"):
        load_model(tmp_path / "toy")


def test_weights_of_another_network_are_named_with_the_cure(tmp_path: Path) -> None:
    save_model(tmp_path / "toy", nn.Linear(3, 1), CONFIG, HISTORY)
    with pytest.raises(ValueError, match=r"toy/weights.safetensors does not fit model.yaml .*; delete .*toy and run"):
        load_model(tmp_path / "toy")


def test_the_classes_of_a_split_go_to_models_that_take_them(tmp_path: Path) -> None:
    save_model(tmp_path / "toy", nn.Linear(2, 1), CONFIG, HISTORY)
    plain = load_model(tmp_path / "toy")
    labels = torch.tensor([0, 1])
    assert class_labels(plain, {"labels": labels}) is None
    knowing = replace(plain, config={**CONFIG, "network": {"classes": 2}})
    assert class_labels(knowing, {"labels": labels}) is labels
    with pytest.raises(ValueError, match=r"toy is class-conditional and the data have no labels; .*kjv_groups"):
        class_labels(knowing, {"tokens": labels})


def test_causes_that_go_in_a_circle_are_no_full_disk() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert disk_full(first) is None
    second.__cause__ = OSError(28, "No space left on device")
    assert "disk full" in str(disk_full(first))
