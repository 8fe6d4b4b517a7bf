"""What is listed can be used: every file has a description and every `_target_` exists."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object, instantiate

from isocline import solvers
from isocline.app.catalog import GROUPS, describe, entries, targets

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
WANTED = (
    *("solvers", "processes", "couplings", "kernels", "objectives", "networks", "optimizers", "samplers"),
    *("distillers", "metrics", "datasets", "profiles"),
)


def name(path):
    return str(path.relative_to(CONF))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_begins_with_its_description(path):
    assert 5 < len(describe(path)) < 120


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_target_can_be_imported(path):
    for key, target in targets(yaml.safe_load(path.read_text())):
        assert callable(get_object(target)), key


@pytest.mark.parametrize("kind", WANTED)
def test_every_kind_lists_something(kind):
    assert entries(kind, CONF)


def test_every_stepper_of_the_solver_core_is_listed_and_can_be_built():
    public = {getattr(solvers, key) for key in solvers.__all__}
    steppers = {kind for kind in public if isinstance(kind, type) and issubclass(kind, solvers.AbstractStepper)}
    concrete = {kind for kind in steppers if not inspect.isabstract(kind)}
    sections = [yaml.safe_load(entry.path.read_text()) for entry in entries("solvers", CONF)]
    listed = [get_object(section["_target_"]) for section in sections]
    assert len(concrete) > 40
    assert set(listed) == concrete
    for kind, section in zip(listed, sections, strict=True):
        if "???" not in section.values():
            assert type(instantiate(section)) is kind


def test_options_of_a_kind_come_from_all_its_groups():
    assert {entry.group for entry in entries("datasets", CONF)} == {"data/images", "data/text", "data/points"}


def test_an_unknown_kind_names_the_nearest_and_all():
    with pytest.raises(ValueError, match=r"did you mean 'solvers'.*profiles"):
        entries("solver", CONF)


def test_every_folder_of_conf_belongs_to_a_kind_or_is_a_fixed_section():
    fixed = {"judge", "evaluation", "report"}
    known = {group.split("/")[0] for groups in GROUPS.values() for group in groups}
    assert {path.name for path in CONF.iterdir() if path.is_dir()} <= known | fixed


def test_the_package_line_is_not_the_description(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("# @package _global_\n# what it is\n{}\n")
    assert describe(path) == "what it is"
    path.write_text("a: 1\n# too late\n")
    with pytest.raises(ValueError, match="begin it with"):
        describe(path)


def test_the_sampler_of_the_guide_is_there_as_written():
    guide = (CONF.parent / "docs" / "add-a-sampler.md").read_text()
    assert f"```yaml\n{(CONF / 'sampler' / 'rk4.yaml').read_text()}```" in guide
