"""What a composition says of its students is checked before anything runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from isocline.app import validate
from isocline.app.compose import compose

ROOT = Path(__file__).parents[2]
ANCESTRAL = "isocline.samplers.discrete.AncestralSampler"


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """The composition without the parts that students have nothing to do with, whose checking takes time."""
    whole = compose([], ROOT, validate=False).config
    return {
        **whole,
        "densities": {},
        "plugins": {},
        "models": {name: whole["models"][name] for name in ("flow", "dfm")},
        "students": {name: whole["students"][name] for name in ("reflow", "discrete_consistency")},
    }


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
        ("teacher", "flaw", "teacher", ["no model or student 'flaw'", "flow", "discrete_consistency"]),
    ],
)
def test_what_a_student_cannot_be_is_named(
    defaults: dict[str, Any], key: str, value: Any, at: str, parts: list[str]
) -> None:
    found = problems_of(defaults, {f"students.reflow.{key}": value})
    assert f"students.reflow.{at}" in found, found
    for part in parts:
        assert part in found[f"students.reflow.{at}"]


def test_rounds_that_training_does_not_reach_are_named(defaults: dict[str, Any]) -> None:
    def found(steps: int) -> str | None:
        student = "students.discrete_consistency"
        rounds = {f"{student}.objective.rounds": 3, f"{student}.objective.round_length": 90}
        return problems_of(defaults, {**rounds, f"{student}.trainer.steps": steps}).get(f"{student}.objective.rounds")

    assert found(181) is None
    assert "3 rounds of 90 steps, but students.discrete_consistency.trainer.steps is 180" in str(found(180))


def test_a_second_reflow_learns_from_pairs_that_the_first_one_makes(defaults: dict[str, Any]) -> None:
    own = {"teacher": "reflow", "data": "data/pairs/reflow", "network": {"end_time": True}}
    second = {**defaults["students"]["reflow"], **own}
    found = problems_of(defaults, {"students.second": second})
    assert found["students.second.data"].endswith("pairs.reflow, which is missing; add `+pairs@pairs.reflow=heun`")
    assert not problems_of(defaults, {"students.second": second, "pairs.reflow": defaults["pairs"]["flow"]})


@pytest.mark.parametrize(
    ("changes", "key", "part"),
    [
        ({"pairs.flaw": {}}, "pairs.flaw", "no model or student 'flaw'"),
        ({"pairs.dfm": {}}, "pairs.dfm", "is a model of text"),
        ({"pairs.flow.count": 0}, "pairs.flow.count", "out of range"),
        ({"pairs.flow.sampler._target_": ANCESTRAL}, "pairs.flow.sampler", "kernel"),
        ({"pairs": {}}, "students.reflow.data", "pairs.flow, which is missing"),
        ({"students.reflow.data": "data/pairs/vp"}, "students.reflow.data", "set data/pairs/flow"),
        (
            {"students.discrete_consistency.teacher": "reflow"},
            "students.discrete_consistency.teacher",
            "is a model of images",
        ),
    ],
)
def test_pairs_that_cannot_be_made_or_are_missing_are_named(
    defaults: dict[str, Any], changes: dict[str, Any], key: str, part: str
) -> None:
    assert part in problems_of(defaults, changes)[key]
