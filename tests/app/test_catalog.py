"""What is listed can be used: every file has a description and every `_target_` exists."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object, instantiate

from isocline import solvers
from isocline.app.catalog import GROUPS, describe, entries, find, in_group, like, targets

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
    fixed = {"judge", "evaluation", "report", "depth"}
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


@pytest.mark.parametrize(
    ("kind", "spelling", "name"),
    [
        ("samplers", "DPM++ 2M", "dpmpp_2m"),
        ("samplers", "DPM++(2M)", "dpmpp_2m"),
        ("samplers", "DPM-Solver-3", "dpm_solver_3"),
        ("samplers", "dpm-solver++ (2m)", "dpmpp_2m"),
        ("samplers", "SDE-DPM-Solver++(2M)", "dpmpp_sde"),
        ("samplers", "DPM-Solver-v3", "dpm_v3"),
        ("samplers", "UniPC", "unipc"),
        ("samplers", "CFG++", "cfg_plus_plus"),
        ("samplers", "Rectified CFG++", "rectified_cfg_plus_plus"),
        ("processes", "TrigFlow", "trigflow"),
        ("couplings", "OT", "ot"),
        ("traces", "Hutch++", "hutch_plus_plus"),
        ("Samplers", "ddim", "ddim"),
        ("datasets", "data/points=digits", "digits"),
    ],
)
def test_names_are_free_of_case_and_punctuation(kind, spelling, name):
    assert find(kind, spelling, CONF).name == name


@pytest.mark.parametrize("kind", GROUPS)
def test_no_two_options_of_a_kind_differ_in_punctuation_alone(kind):
    for group in GROUPS[kind]:
        options = in_group(group, CONF)
        for entry in options:
            assert like(entry.name.upper().replace("_", " "), options) == [entry]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dpmp_2m", r"no option 'dpmp_2m'; did you mean 'dpmpp_2m' or .* there are .*euler"),
        ("++", r"no option '\+\+'; there are "),
        ("nothing like it", "no option 'nothing like it'; there are "),
    ],
)
def test_an_unknown_option_names_near_ones(name, message):
    with pytest.raises(ValueError, match=message):
        find("samplers", name, CONF)


def test_a_name_that_may_be_one_of_several_is_refused(tmp_path):
    for stem in ("a_b", "ab"):
        (tmp_path / "sampler").mkdir(exist_ok=True)
        (tmp_path / "sampler" / f"{stem}.yaml").write_text("# an option\n{}\n")
    assert find("samplers", "a_b", tmp_path).name == "a_b"
    with pytest.raises(ValueError, match="'A-B' may be any of a_b, ab; write one of them"):
        find("samplers", "A-B", tmp_path)
    with pytest.raises(ValueError, match="'digits' may be any of data/images=digits, data/points=digits; write one"):
        find("datasets", "digits", CONF)
