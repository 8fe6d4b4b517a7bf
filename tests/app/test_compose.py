"""Composition is that of DVC's bridge, checked as a whole before it is written."""

from __future__ import annotations

import copy
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


def changed(config, key, value):
    *parents, last = key.split(".")
    result = copy.deepcopy(config)
    node = result
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return result


def problems_of(config, key, value):
    return {problem.key: problem.message for problem in validate.problems(changed(config, key, value))}


def refusal(defaults, override):
    """The one line that refuses an override; a key that exists is changed without composing, which takes longest."""
    key, _, value = override.partition("=")
    plain = (
        bool(value)
        and has(defaults, key)
        and not (ROOT / "conf" / key).is_dir()
        and "{" not in value
        and value != ".inf"
    )
    if not plain:
        with pytest.raises(ConfigurationError) as caught:
            compose([override], ROOT)
        return str(caught.value)
    return str(next(validate.problems(changed(defaults, key, yaml.safe_load(value)))))


def has(config, key):
    first, _, rest = key.partition(".")
    return first in config and (not rest or has(config[first], rest))


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


@pytest.mark.parametrize("spelling", ["DPM++2M", "dpmpp-2m", "'DPM++ 2M'"])
def test_an_option_may_be_spelt_in_any_case_and_punctuation(spelling):
    def flow(option):
        return compose([f"sampler@models.flow.sampler={option}"], ROOT, validate=False).text

    assert flow(spelling) == flow("dpmpp_2m") != flow("euler")


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
        (
            "+students.discrete_consistency.objective.teacher_steps=3",
            ["students.discrete_consistency.objective", "teacher_steps"],
        ),
        (
            "students.discrete_consistency.objective={teacher_stops:3}",
            ["students.discrete_consistency.objective.teacher_stops", "unknown key"],
        ),
        ("accelerator=gnu", ["accelerator", "gnu", "cpu, auto"]),
        ("judge.images.training.steps=0", ["judge.images.training.steps", "range"]),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_that_names_the_key(defaults, override, parts):
    message = refusal(defaults, override)
    assert "\n" not in message
    for part in parts:
        assert part.lower() in message.lower()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("models.flow.trainer.precision=bf17", ["models.flow.trainer", "precision", "bf17", "bf16-mixed"]),
        ("models.flow.objective.times=0.5", ["models.flow.objective.times", "expected", "AbstractTimes", "0.5"]),
        (
            "+models.masked.objective.times=early",
            ["models.masked.objective.times", "expected", "AbstractTimes", "early"],
        ),
        (
            "students.discrete_consistency.trainer.precision=bf17",
            ["students.discrete_consistency.trainer", "precision", "bf17", "32-true"],
        ),
        ("models.flow.trainer.accelerator=tpux", ["models.flow.trainer.accelerator", "tpux", "auto"]),
        ("models.flow.optimizer.lr=.inf", ["models.flow.optimizer.lr", ".inf", "finite", "0.001"]),
        ("models.flow.optimizer.lr=inf", ["models.flow.optimizer.lr", "inf", "finite", "0.001"]),
        ("models.flow.optimizer.lr=abc", ["models.flow.optimizer.lr", "expected float", "abc"]),
        ("models.flow.optimizer.betas=[0.9,nan]", ["models.flow.optimizer.betas.1", "nan"]),
        ("models.flow.modality=text", ["models.flow.modality", "text", "set models.flow.modality=images"]),
        ("process@models.flow.process=absorbing", ["models.flow.modality", "kernel", "process=linear"]),
        ("network@models.masked.network=unet", ["models.masked.network", "UNet", "vocab_size"]),
        ("network@models.ar.network=token_transformer", ["models.ar.network.causal", "set true"]),
        ("objective@models.masked.objective=matching", ["models.masked.objective", "DenoisingMatching", "Gaussian"]),
        ("objective@models.flow.objective=masked", ["models.flow.objective", "MaskedDiffusion", "GaussianProcess"]),
        ("objective@models.ar.objective=masked", ["models.ar.objective", "needs a process"]),
        ("objective@models.flow.objective=autoregressive", ["models.flow.objective", "takes no process"]),
        ("sampler@models.flow.sampler=ancestral", ["models.flow.sampler", "AncestralSampler", "sampler=euler"]),
        ("sampler@models.masked.sampler=euler", ["models.masked.sampler", "ContinuousSampler", "sampler=ancestral"]),
        ("sampler@models.ar.sampler=ancestral", ["models.ar.sampler", "none", "sampler=autoregressive"]),
        ("sampler@models.vp.sampler=autoregressive", ["models.vp.sampler", "AutoregressiveSampler", "sampler=euler"]),
        ("sampler@models.dfm.sampler=confidence", ["models.dfm.sampler", "UniformKernel", "AbsorbingKernel"]),
        (
            "sampler@students.discrete_consistency.sampler=euler",
            ["students.discrete_consistency.sampler", "models.dfm.process"],
        ),
        (
            "models.flow.sampler.variable._target_=isocline.samplers.variable.NoiseRatioVariable",
            ["models.flow.sampler", "NoiseRatioVariable", "TimeVariable"],
        ),
        (
            "+models.flow.sampler.wrap={_target_:isocline.samplers.guidance.ClassifierFreeGuidance,_partial_:true,scale:2}",
            ["models.flow.sampler", "nfe=1"],
        ),
        ("models.flow.network.channels=3", ["models.flow.network.channels", "3", "data.images.channels is 1"]),
        ("models.flow.network.classes=7", ["models.flow.network.classes", "7", "data.images.classes is 10"]),
        ("judge.images.network.size=32", ["judge.images.network.size", "32", "data.images.size is 28"]),
        ("models.masked.network.vocab_size=100", ["models.masked.network.vocab_size", "100", "1024"]),
        ("models.masked.process.vocab_size=100", ["models.masked.process.vocab_size", "100", "1024"]),
        ("models.masked.network.length=32", ["models.masked.network.length", "32", "64"]),
        ("data.text.tokenizer.vocab_size=100", ["data.text.tokenizer.vocab_size", "100", "1024"]),
        ("data.images.classes=7", ["data.images.classes", "7", "data.images.classes=10"]),
        ("data.images.size=32", ["data.images.size", "32", "data.images.size=28"]),
        ("data.images.splits.train=abc", ["data.images.splits.train", "expected int", "abc"]),
        ("data.images.splits.train=0", ["data.images.splits.train", "0", "at least 1"]),
        ("data.images.splits.train=99999", ["data.images.splits.train", "99999", "5000", "at most 3400"]),
        ("data.images.splits={train:null,judge:null}", ["data.images.splits", "train and judge", "only one"]),
        ("~data.images.splits.judge", ["data.images.splits.judge", "is missing"]),
        ("data.text.splits.train=0.9", ["data.text.splits", "train 0.9", "1.2", "make it 1"]),
        ("data.text.splits={train:1.2,judge:0.2,valid:-0.5,test:0.1}", ["data.text.splits.valid", "-0.5", "positive"]),
        ("data.text.splits.train=most", ["data.text.splits.train", "expected float", "most"]),
        ("judge.text.test_rows=abc", ["judge.text.test_rows", "expected int", "abc"]),
        ("judge.text.test_rows=-5", ["judge.text.test_rows", "-5", "at least 1"]),
        (
            "evaluation.images.likelihood.models.flow.steps=0",
            ["evaluation.images.likelihood.models.flow.steps", "0", "at least 1"],
        ),
        ("students.reflow.teacher=masked", ["students.reflow.teacher", "masked", "flow or vp"]),
        (
            "students.discrete_consistency.teacher=ar",
            ["students.discrete_consistency.objective", "needs a process", "models.ar"],
        ),
        ("students.reflow.data=nowhere", ["students.reflow.data", "nowhere", "data/pairs/flow"]),
        ("students.reflow.data=data/images", ["students.reflow.data", "data/pairs/flow"]),
        ("students.consistency.data=data/text", ["students.consistency.data", "data/images"]),
        ("+distillation@students.flow=consistency_distillation", ["students.flow", "data/models/flow", "rename"]),
        ("+matrix.images.masked=models", ["matrix.images.masked", "of text", "matrix.text"]),
        ("network@models.resnet.network=unet", ["models.resnet.network", "UNet", "network=residual_classifier"]),
        ("objective@models.flow.objective=classification", ["models.flow.network", "UNet is no classifier"]),
        ("objective@models.resnet.objective=matching", ["models.resnet", "process=linear"]),
        ("models.resnet.modality=text", ["models.resnet.modality", "text", "set images"]),
        ("models.node_adjoint.network.width=12", ["models.node_adjoint.network", "width = 12", "multiple of 8"]),
        ("models.node_adjoint.network.classes=7", ["models.node_adjoint.network.classes", "7", "10"]),
        ("~models.flow.sampler", ["models.flow.sampler", "is missing", "sampler=euler"]),
        ("+matrix.images.resnet=models", ["matrix.images.resnet", "of classifiers", "matrix.classifiers"]),
    ],
)
def test_parts_that_do_not_fit_together_are_refused_before_anything_runs(defaults, override, parts):
    message = refusal(defaults, override)
    assert "\n" not in message
    assert message.startswith(parts[0])
    for part in parts:
        assert part.lower() in message.lower()


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler@models.masked.sampler=confidence", "sampler@models.dfm.sampler=ancestral"],
        ["sampler@models.flow.sampler=rk4", "sampler@models.vp.sampler=heun", "sampler@students.reflow.sampler=ddim"],
        ["process@models.flow.process=trigflow", "process@models.vp.process=cosine"],
        [
            "solver@models.node_adjoint.network.stepper=dopri5",
            "gradient@models.node_backprop.network.gradient=interpolated",
            "controller@models.resnet_tied.network.controller=constant",
        ],
        [
            "models.flow.network.classes=10",
            "students.reflow.teacher=vp",
            "+pairs@pairs.vp=adaptive",
            "data.images.splits.train=null",
        ],
        ["data/images=digits", "models.flow.network.multipliers=[1,2]", "models.vp.network.multipliers=[1,2]"],
        ["data/images=cifar10", "data/text=text8"],
        ["data/images=twemoji", "data/text=kjv_characters", "models.flow.trainer.precision=bf16-mixed"],
        [
            "~models.vp",
            "~matrix.images.vp",
            "~students.consistency",
            "~matrix.images.consistency",
        ],
    ],
    ids=" ".join,
)
def test_parts_that_fit_together_are_accepted(overrides):
    compose(overrides, ROOT)


def test_what_dvc_yaml_refers_to_has_to_be_there(project):
    overrides = ["~students.reflow", "~matrix.images.reflow"]
    compose(overrides, project)
    stage = {"cmd": "pairs", "deps": ["data/${students.reflow.teacher}"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"pairs": stage}}))
    with pytest.raises(ConfigurationError, match=r"^students\.reflow\.teacher: is missing.*dvc\.yaml.*keep it"):
        compose(overrides, project)
    stage = {"cmd": "evaluate", "params": ["students.reflow.ema.decay"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    with pytest.raises(ConfigurationError, match=r"^students\.reflow\.ema\.decay: is missing.*stage evaluate"):
        compose(["~students.reflow.ema.decay"], project)


def test_malformed_sections_are_problems_and_not_exceptions(defaults):
    sections = ("data", "data.images", "data.images.splits", "judge", "judge.images", "models", "models.flow", "matrix")
    parts = ("models.flow.network", "models.flow.sampler", "students", "students.reflow", "evaluation.images")
    for key in (*sections, *parts):
        assert key in problems_of(defaults, key, "text"), key
    assert "models.flow" in problems_of(defaults, "models.flow", None)
    assert "models.flow.process" in problems_of(defaults, "models.flow.process", [1])


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
