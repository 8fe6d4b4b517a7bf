"""Students: chains of teachers, networks that inherit, weights to start from."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from isocline.app.artifacts import build, load_model, save_model
from isocline.app.student_network import start_network
from isocline.app.students import merged_network, network_of, root_model, teachers

NETWORK = {"_target_": "isocline.networks.mlp.MLP", "dim": 2, "width": 8, "depth": 2}
CONFIG: dict[str, Any] = {
    "models": {"flow": {"network": NETWORK}},
    "students": {
        "first": {"teacher": "flow", "network": {"depth": 3}},
        "second": {"teacher": "first", "network": {"width": 16}},
    },
}


def test_a_chain_of_teachers_ends_at_the_model_and_the_network_inherits_every_change() -> None:
    assert list(teachers(CONFIG, "second")) == ["first", "flow"]
    assert root_model(CONFIG, "second") == root_model(CONFIG, "flow") == "flow"
    assert network_of(CONFIG, "second") == {**NETWORK, "depth": 3, "width": 16}
    assert CONFIG["models"]["flow"]["network"] == NETWORK


def test_a_chain_without_end_is_refused() -> None:
    circle = {"students": {"a": {"teacher": "b"}, "b": {"teacher": "a"}}}
    with pytest.raises(ValueError, match=r"a is taught by b is taught by a; a chain of teachers must end at a model"):
        root_model(circle, "a")


def test_inner_sections_merge_by_key_unless_the_class_changes() -> None:
    base = {"a": {"_target_": "x.X", "p": 1, "q": 2}, "b": 1}
    assert merged_network(base, {"a": {"q": 3}}) == {"a": {"_target_": "x.X", "p": 1, "q": 3}, "b": 1}
    assert merged_network(base, {"a": {"_target_": "y.Y"}}) == {"a": {"_target_": "y.Y"}, "b": 1}


def teacher() -> Any:
    torch.manual_seed(7)
    return SimpleNamespace(
        name="flow", network=build(NETWORK).requires_grad_(False).eval(), config={"network": copy.deepcopy(NETWORK)}
    )


def start(changes: dict[str, Any], how: str = "teacher", seed: int = 0) -> tuple[nn.Module, Any]:
    return start_network(teacher(), {"network": changes, "start": how}, "students.x", seed)


def test_a_student_without_changes_is_its_teacher_but_trainable() -> None:
    network, section = start({})
    given = teacher().network.state_dict()
    assert section == NETWORK
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_fits_comes_from_the_teacher_and_the_rest_from_the_seed() -> None:
    (first, section), (again, _), (other, _) = (start({"depth": 3}, seed=seed) for seed in (1, 1, 2))
    given, states = teacher().network.state_dict(), [network.state_dict() for network in (first, again, other)]
    fresh = {name for name, value in states[0].items() if name not in given or given[name].shape != value.shape}
    # The teacher's last layer (8 to 2) lies where the student has a hidden one (8 to 8).
    assert fresh == {"layers.4.weight", "layers.4.bias", "layers.6.weight", "layers.6.bias"}
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        assert torch.equal(value, states[2][name]) == (name not in fresh), name
        assert name in fresh or torch.equal(value, given[name])
    assert section["depth"] == 3


def test_a_student_from_scratch_has_nothing_of_its_teacher() -> None:
    network, _ = start({}, "scratch")
    given = teacher().network.state_dict()
    assert not any(torch.equal(value, given[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize(
    ("changes", "how", "message"),
    [
        ({}, "zero", r"^students\.x\.start: 'zero' is not one of teacher, scratch$"),
        ({"dept": 3}, "teacher", r"^students\.x\.network\.dept: MLP has no such argument; did you mean 'depth'\?$"),
        ({"dim": 3, "width": 16}, "teacher", r"^students\.x\.start: no weight of flow fits .*start=scratch$"),
    ],
)
def test_what_cannot_start_is_named_in_one_line(changes: dict[str, Any], how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start(changes, how)


def test_a_student_with_another_network_is_read_back(tmp_path: Path) -> None:
    network, section = start({"depth": 3})
    config = {"name": "x", "modality": "images", "process": None, "network": section, "objective": None}
    save_model(tmp_path / "x", network, config, [{"step": 1, "loss": 0.0}])
    read = load_model(tmp_path / "x").network.state_dict()
    assert all(torch.equal(value, read[name]) for name, value in network.state_dict().items())
