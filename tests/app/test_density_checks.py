"""Compositions of densities that cannot be run are refused with the key and the cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isocline.app.compose import compose
from isocline.app.validate import ConfigurationError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("densities.cnf_moons.data=mooons", ["data.points.mooons.dim", "not found"]),
        ("densities.cnf_moons={data:mooons,network:{dim:2}}", ["densities.cnf_moons.data", "moons, digits"]),
        ("densities.cnf_moons.network.dim=3", ["densities.cnf_moons.network.dim", "data.points.moons.dim is 2"]),
        (
            "objective@densities.glow_moons.objective=continuous_likelihood",
            ["densities.glow_moons.objective", "=likelihood"],
        ),
        (
            "objective@densities.cnf_moons.objective=likelihood",
            ["densities.cnf_moons.objective", "=continuous_likelihood"],
        ),
        ("objective@densities.cnf_moons.objective=masked", ["densities.cnf_moons.objective", "no likelihood"]),
        ("~data.points.moons.splits.test", ["data.points.moons.splits.test", "missing"]),
        ("densities.residual_moons.network.bound=1.5", ["densities.residual_moons.network", "bound"]),
        ("densities.rnode_moons.objective.kinetic=-1.0", ["densities.rnode_moons.objective", "kinetic"]),
        ("densities.cnf_digits.objective.flow.trace.probes=0", ["densities.cnf_digits.objective", "probes"]),
        ("evaluation.points.samples=1", ["evaluation.points", "samples"]),
        ("+densities.cnf_moons.colour=red", ["densities.cnf_moons.colour", "unknown key"]),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_that_names_the_key(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(parts[0])) as caught:
        compose([override], ROOT)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trace@densities.cnf_digits.objective.flow.trace=hutch_plus_plus"],
        ["data/points@data.points.moons=checkerboard"],
        ["+density@densities.spline_moons=spline", "densities.spline_moons.data=moons"],
        ["data/points@data.points.digits=breast_cancer"],
    ],
)
def test_options_of_densities_compose(overrides: list[str]) -> None:
    compose(overrides, ROOT)


def test_a_density_without_its_data_is_asked_for_them() -> None:
    with pytest.raises(ConfigurationError, match=r"densities\.spline_moons\.data"):
        compose(["+density@densities.spline_moons=spline"], ROOT)


def test_every_default_density_has_its_dimension_from_its_data() -> None:
    config = compose([], ROOT, validate=False).config
    dims = {
        name: (part["network"]["dim"], config["data"]["points"][part["data"]]["dim"])
        for name, part in config["densities"].items()
    }
    assert len(dims) == 12
    assert all(found == wanted for found, wanted in dims.values())
