"""Composition is that of DVC's bridge, checked as a whole before it is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from isocline.app import validate
from isocline.app.compose import compose, replace_file, write
from isocline.app.validate import ConfigurationError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path):
    """A copy of the configuration, so that tests may write."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    return tmp_path


@pytest.fixture(scope="module")
def defaults():
    return compose([], ROOT, validate=False).config


def problems_of(config, key, value):
    *parents, last = key.split(".")
    changed = yaml.safe_load(yaml.safe_dump(config))
    node = changed
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return {problem.key: problem.message for problem in validate.problems(changed)}


def test_the_committed_parameters_are_the_composition_of_the_defaults():
    path = ROOT / "params.yaml"
    assert path.exists(), "params.yaml is not there; run `isocline compose` and commit it"
    assert compose([], ROOT).text == path.read_text(), "conf/ changed; run `isocline compose` and commit params.yaml"


@pytest.mark.parametrize("profile", sorted(path.stem for path in (ROOT / "conf" / "profile").glob("*.yaml")))
def test_every_profile_composes_and_is_valid(profile):
    assert compose([f"profile={profile}"], ROOT).config["profile"] == profile


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_every_experiment_composes_and_is_valid(experiment):
    compose([f"experiment={experiment}"], ROOT)


def test_the_text_is_what_dvc_writes(project):
    from dvc.utils.hydra import compose_and_dump

    overrides = ["seed=3", "profile=smoke"]
    os.makedirs(project / "plugins")
    output = project / "params.yaml"
    compose_and_dump(output, str(project / "conf"), None, "config", str(project / "plugins"), overrides)
    assert compose(overrides, project, validate=False).text == output.read_text()


def test_composing_twice_gives_the_same_bytes():
    assert compose(["seed=5"], ROOT, validate=False).text == compose(["seed=5"], ROOT, validate=False).text


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("sead=1", ["sead", "unknown key", "seed"]),
        ("models.flow.trainer.step=1", ["models.flow.trainer.step", "models.flow.trainer.steps"]),
        ("profile=labtop", ["profile", "labtop", "laptop", "smoke"]),
        ("seed", ["KEY=VALUE"]),
        ("+later=1", ["later", "unknown key"]),
        ("seed=many", ["seed", "expected int", "many"]),
        ("seed=true", ["seed", "expected int", "bool"]),
        ("seed=-1", ["seed", "-1", "range"]),
        ("threads=0", ["threads", "0", "range"]),
        ("models.flow.trainer.steps=0", ["models.flow.trainer", "steps", "0"]),
        ("models.flow.trainer.steps=many", ["models.flow.trainer.steps", "expected int", "many"]),
        ("models.masked.network.width=97", ["models.masked.network", "heads", "width"]),
        ("models.flow.process.t_min=2.0", ["models.flow.process", "t_min"]),
        ("models.vp.process.schedule.beta_max=-1.0", ["models.vp.process.schedule", "beta_max"]),
        ("models.flow.optimizer.lr=-1.0", ["models.flow.optimizer", "learning rate"]),
        ("models.flow.ema.decay=1.5", ["models.flow.ema", "decay"]),
        ("+models.masked.network.colour=red", ["models.masked.network.colour", "no such argument"]),
        (
            "models.masked.network._target_=isocline.networks.unknown.Net",
            ["models.masked.network", "cannot be imported"],
        ),
        ("~models.masked.network.width", ["models.masked.network.width", "missing"]),
        ("students.reflow.teacher=flaw", ["students.reflow.teacher", "flaw"]),
        ("+students.sdtt.objective.teacher_steps=3", ["students.sdtt.objective", "teacher_steps"]),
        ("students.sdtt.objective={teacher_stops:3}", ["students.sdtt.objective.teacher_stops", "unknown key"]),
        ("accelerator=gnu", ["accelerator", "gnu", "cpu, auto"]),
        ("judge.images.training.steps=0", ["judge.images.training.steps", "range"]),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_that_names_the_key(override, parts):
    with pytest.raises(ConfigurationError) as caught:
        compose([override], ROOT)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part.lower() in message.lower()


def test_missing_sections_and_open_values_are_named(defaults):
    without = {key: value for key, value in defaults.items() if key != "models"}
    assert "models" in {problem.key for problem in validate.problems(without)}
    assert "no value" in problems_of(defaults, "seed", "???")["seed"]


def test_the_number_of_further_problems_is_told(defaults):
    broken = {**defaults, "seed": -1, "threads": 0}
    with pytest.raises(ConfigurationError, match=r"^seed: .*more: threads"):
        validate.check(broken)


def test_a_whole_number_passes_for_a_real_one_and_not_the_reverse(defaults):
    assert "models.vp.process.schedule.beta_max" not in problems_of(defaults, "models.vp.process.schedule.beta_max", 20)
    assert "models.masked.network.depth" in problems_of(defaults, "models.masked.network.depth", 2.5)


def test_outside_a_project_the_cure_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="project's directory"):
        compose([], tmp_path)


def test_a_damaged_configuration_file_is_one_line(project):
    (project / "conf" / "config.yaml").write_text("defaults: [\n")
    with pytest.raises(ConfigurationError, match="not YAML"):
        compose([], project)


def test_a_default_that_has_no_file_is_named(project):
    (project / "conf" / "network" / "unet.yaml").unlink()
    with pytest.raises(ConfigurationError, match="unet"):
        compose([], project)


def test_writing_tells_whether_anything_changed(tmp_path):
    path = tmp_path / "params.yaml"
    assert write("seed: 1\n", path)
    assert not write("seed: 1\n", path)
    assert path.read_text() == "seed: 1\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    path.write_text("old\n")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(b"new\n", path)
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]
