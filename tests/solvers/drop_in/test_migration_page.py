"""The migration page names what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from isocline.solvers.drop_in.methods import _METHODS
from isocline.solvers.drop_in.options import AdaptiveOptions, GridOptions, ScipyOptions

PAGE = (Path(__file__).parents[3] / "docs" / "migrate-from-torchdiffeq.md").read_text("utf-8")


def named(heading):
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_method_is_on_the_page():
    assert named("Methods") | {"rk4_classic"} == set(_METHODS)


def test_every_option_is_on_the_page():
    known = {field.name for kind in (AdaptiveOptions, GridOptions, ScipyOptions) for field in fields(kind)}
    assert named("Options") == known - {"grid_points", "eps"} | {"per_sample"}
