"""What a composition says of its students is checked before anything runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from isocline.app import validate
from isocline.app.compose import compose

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """The composition without the parts that students have nothing to do with, whose checking takes time."""
    whole = compose([], ROOT, validate=False).config
    return {**whole, "densities": {}, "models": {name: whole["models"][name] for name in ("flow", "vp", "masked")}}


def problems_of(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, str]:
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return {problem.key: problem.message for problem in validate.problems(config) if "matrix" not in problem.key}


@pytest.mark.parametrize(
    ("key", "value", "at", "parts"),
    [
        ("start", "zero", "start", ["zero", "teacher, scratch"]),
        ("network", {"widht": 8}, "network.widht", ["UNet", "'width'"]),
        ("network", {"width": 12}, "network", ["width = 12", "multiple of 8"]),
        ("network", {"size": 14}, "network.size", ["14", "data.images.size is 28"]),
        ("network", 8, "network", ["expected section", "8"]),
        ("teacher", "reflow", "teacher", ["reflow is taught by reflow", "must end at a model"]),
        ("teacher", "flaw", "teacher", ["no model or student 'flaw'", "flow", "consistency"]),
    ],
)
def test_what_a_student_cannot_be_is_named(
    defaults: dict[str, Any], key: str, value: Any, at: str, parts: list[str]
) -> None:
    found = problems_of(defaults, {f"students.reflow.{key}": value})
    assert f"students.reflow.{at}" in found, found
    for part in parts:
        assert part in found[f"students.reflow.{at}"]


def test_a_student_may_be_taught_by_a_student_with_another_network(defaults: dict[str, Any]) -> None:
    second = {**defaults["students"]["consistency"], "teacher": "consistency", "network": {"end_time": True}}
    right = problems_of(defaults, {"students.second": second})
    assert not {"students.second.teacher", "students.second.network"} & set(right)
    wrong = problems_of(defaults, {"students.second": {**second, "teacher": "sdtt"}})
    assert "is a model of text" in wrong["students.second.teacher"]
