"""Compositions of densities that cannot be run are refused with the key and the cure."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from isocline.app import validate
from isocline.app.compose import compose

ROOT = Path(__file__).parents[2]
LIKELIHOOD = "isocline.objectives.maximum_likelihood."


@pytest.fixture(scope="module")
def config():
    """What concerns densities in the composition of the defaults and one more option."""
    more = ["+density@densities.spline_moons=spline", "densities.spline_moons.data=moons"]
    more += ["+density@densities.taynode_moons=taynode", "densities.taynode_moons.data=moons"]
    whole = compose(
        [*more, "trace@densities.cnf_digits.objective.flow.trace=hutch_plus_plus"], ROOT, validate=False
    ).config
    keys = ("seed", "threads", "accelerator", "profile", "matrix", "data", "judge", "evaluation")
    return {**{key: whole[key] for key in keys}, "models": {}, "students": {}, "densities": whole["densities"]}


def found(config, key: str, value=None) -> dict[str, str]:
    """Problems of points, densities and their evaluation after a change (None takes the key out)."""
    changed = copy.deepcopy(config)
    changed["matrix"] = {}
    *parents, last = key.split(".")
    node = changed
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    below = ("data.points", "densities", "evaluation.points")
    changed["densities"] = {name: part for name, part in changed["densities"].items() if name in key}
    return {p.key: p.message for p in validate.problems(changed) if p.key.startswith(below)}


@pytest.mark.parametrize(
    ("key", "value", "where", "part"),
    [
        ("densities.cnf_moons.data", "mooons", "densities.cnf_moons.data", "moons, digits"),
        ("densities.cnf_moons.data", "???", "densities.cnf_moons.data", "has no value"),
        ("densities.cnf_moons.network.dim", 3, "densities.cnf_moons.network.dim", "data.points.moons.dim is 2"),
        ("densities.glow_moons.objective._target_", f"{LIKELIHOOD}ContinuousMaximumLikelihood",
         "densities.glow_moons.objective", "=likelihood"),
        ("densities.cnf_moons.objective", {"_target_": f"{LIKELIHOOD}MaximumLikelihood"},
         "densities.cnf_moons.objective", "=continuous_likelihood"),
        ("densities.cnf_moons.objective", {"_target_": "isocline.objectives.masked.MaskedDiffusion"},
         "densities.cnf_moons.objective", "no likelihood"),
        ("densities.taynode_moons.objective.objective", {"_target_": "isocline.objectives.masked.MaskedDiffusion"},
         "densities.taynode_moons.objective", "no likelihood"),
        ("densities.taynode_moons.objective.order", 0, "densities.taynode_moons.objective", "order"),
        ("densities.spline_moons.objective", {"_target_": "isocline.objectives.speed_penalty.SpeedPenalty",
         "weight": 1.0, "objective": {"_target_": f"{LIKELIHOOD}MaximumLikelihood"}},
         "densities.spline_moons.objective", "SplineFlow has none"),
        ("data.points.moons.splits.test", None, "data.points.moons.splits.test", "missing"),
        ("densities.residual_moons.network.bound", 1.5, "densities.residual_moons.network", "bound"),
        ("densities.rnode_moons.objective.kinetic", -1.0, "densities.rnode_moons.objective", "kinetic"),
        ("densities.cnf_moons.colour", "red", "densities.cnf_moons.colour", "unknown key"),
        ("evaluation.points.samples", 1, "evaluation.points", "samples"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_its_key(config, key: str, value, where: str, part: str) -> None:
    assert part in found(config, key, value)[where]


def test_the_defaults_and_an_added_density_are_fine(config) -> None:
    for name in ("cnf_moons", "cnf_digits", "spline_moons", "taynode_moons", "glow_digits"):
        lr = config["densities"][name]["optimizer"]["lr"]
        assert found(config, f"densities.{name}.optimizer.lr", lr) == {}


def test_a_density_may_not_have_a_models_name(config) -> None:
    clash = {**config, "models": {"cnf_moons": {}}}
    assert "same name" in found(clash, "densities.cnf_moons.data", "moons")["densities.cnf_moons"]


def test_every_density_has_its_dimension_from_its_data(config) -> None:
    points = config["data"]["points"]
    dims = {name: (d["network"]["dim"], points[d["data"]]["dim"]) for name, d in config["densities"].items()}
    assert len(dims) == 12
    assert all(mine == wanted for mine, wanted in dims.values())
