"""Models are found by name, path or run; images and text come out; what does not fit is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from isocline import cli
from isocline.app.artifacts import save_model
from isocline.app.generate import resolve_model
from isocline.datasets.tokenizer import CharacterTokenizer

ROOT = Path(__file__).parents[2]
PATCH = {"channels": 1, "size": 8, "patch": 4, "width": 8, "depth": 1, "heads": 2, "classes": 0}
TOKENS = {"vocab_size": 6, "length": 8, "width": 8, "depth": 1, "heads": 2, "causal": False, "time_conditioned": False}
GAUSSIAN = {
    "_target_": "isocline.processes.gaussian.GaussianProcess",
    "schedule": {"_target_": "isocline.processes.schedule.LinearSchedule"},
    "prediction": {"_target_": "isocline.processes.prediction.VelocityPrediction"},
}
ABSORBING = {
    "_target_": "isocline.processes.kernel.AbsorbingKernel",
    "vocab_size": 6,
    "schedule": {"_target_": "isocline.processes.token_schedule.LinearSurvival"},
}


def save(root, name, modality, network, process, objective):
    torch.manual_seed(0)
    config = {"name": name, "modality": modality, "teacher": None, "process": process, "network": network}
    save_model(root / "data" / "models" / name, instantiate(network), {**config, "objective": objective}, [{"step": 1}])


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    network = {"_target_": "isocline.networks.transformer.PatchTransformer", **PATCH}
    save(tmp_path, "flow", "images", network, GAUSSIAN, {"_target_": "isocline.objectives.matching.DenoisingMatching"})
    network = {"_target_": "isocline.networks.transformer.TokenTransformer", **TOKENS}
    save(tmp_path, "masked", "text", network, ABSORBING, {"_target_": "isocline.objectives.masked.MaskedDiffusion"})
    network = {**network, "causal": True}
    objective = {"_target_": "isocline.objectives.autoregressive.AutoregressiveObjective"}
    save(tmp_path, "ar", "text", network, None, objective)
    CharacterTokenizer(6).train([], "abcd ").save(tmp_path / "data/text/tokenizer.json")
    normalise = {"_target_": "isocline.datasets.text.Normalisation", "lowercase": True}
    (tmp_path / "data/text/card.json").write_text(json.dumps({"normalise": normalise}))
    return tmp_path


def test_sampling_writes_a_grid_that_depends_on_the_seed_alone(project, capsys):
    grids = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["sample", "flow", "--n", "5", "--sampler", "euler", "--nfe", "3", "--seed", str(seed)]
        assert cli.run([*arguments, "--out", f"{name}.png"]) == 0, capsys.readouterr().err
        grids.append((project / f"{name}.png").read_bytes())
    assert grids[0] == grids[1] != grids[2]
    assert Image.open(project / "a.png").mode == "L"
    assert "3 evaluations" in capsys.readouterr().out


def test_a_sampler_may_be_spelt_as_the_article_does(project, capsys):
    assert cli.run(["sample", "flow", "--n", "2", "--sampler", "DPM++ 2M", "--nfe", "5"]) == 0, capsys.readouterr().err
    assert cli.run(["generate", "masked", "--sampler", "Tau-leaping", "--nfe", "2"]) == 0, capsys.readouterr().err


def test_the_sampler_of_the_guide_spends_four_evaluations_a_step(project, capsys):
    assert cli.run(["sample", "flow", "--n", "2", "--sampler", "rk4", "--nfe", "9"]) == 0, capsys.readouterr().err
    assert "8 evaluations" in capsys.readouterr().out


def test_text_begins_with_the_prompt(project, capsys):
    arguments = ["generate", "masked", "--sampler", "ancestral", "--prompt", "ABBA", "--nfe", "4", "--n", "2"]
    assert cli.run(arguments) == 0, capsys.readouterr().err
    texts = capsys.readouterr().out.splitlines()
    assert len(texts) == 2
    assert all(text.startswith("abba") and len(text) == 8 for text in texts)


def test_gaps_are_filled_and_what_is_given_stays(project, capsys):
    arguments = ["generate", "masked", "--sampler", "ancestral", "--nfe", "4", "--prompt", "ab___da", "--gap", "3"]
    assert cli.run([*arguments, "--count", "5", "--length", "7"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert all(text.startswith("ab") and text.endswith("da") and len(text) == 7 for text in out.splitlines())
    assert err == ""


def test_an_autoregressive_model_says_what_it_does_not_condition_on(project, capsys):
    assert cli.run(["generate", "ar", "--sampler", "autoregressive", "--prompt", "ab___da", "--gap", "2"]) == 0
    out, err = capsys.readouterr()
    assert (out[:2], out[4:6]) == ("ab", "da")
    assert "left to right: what stands before 'da' was written without knowing it" in err
    assert cli.run(["generate", "ar", "--sampler", "autoregressive", "--prompt", "ab"]) == 0
    assert capsys.readouterr().err == ""


def test_a_uniform_model_says_that_a_prompt_is_taken_for_noisy(project, capsys):
    kernel = {**ABSORBING, "_target_": "isocline.processes.kernel.UniformKernel"}
    network = {"_target_": "isocline.networks.transformer.TokenTransformer", **TOKENS}
    save(
        project, "dfm", "text", network, kernel, {"_target_": "isocline.objectives.discrete_flow.DiscreteFlowMatching"}
    )
    assert cli.run(["generate", "dfm", "--sampler", "tau_leaping", "--nfe", "2", "--prompt", "ab"]) == 0
    assert "possibly noisy" in capsys.readouterr().err
    assert cli.run(["generate", "dfm", "--sampler", "twisted", "--nfe", "4", "--prompt", "ab"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ab")
    assert err == ""


def test_a_model_of_blocks_says_which_blocks_did_not_know_the_prompt(project, capsys):
    sizes = {key: TOKENS[key] for key in ("vocab_size", "length", "width", "depth", "heads")}
    network = {"_target_": "isocline.networks.block_transformer.BlockTransformer", **sizes, "block_length": 4}
    save(
        project, "block", "text", network, ABSORBING, {"_target_": "isocline.objectives.block_diffusion.BlockDiffusion"}
    )
    arguments = ["generate", "block", "--sampler", "block", "--nfe", "8", "--prompt"]
    assert cli.run([*arguments, "a___bd", "--gap", "5"]) == 0
    assert "by blocks of 4 tokens: what stands in blocks before 'bd'" in capsys.readouterr().err
    assert cli.run([*arguments, "a___b", "--gap", "2"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.run(["generate", "masked", "--sampler", "block", "--prompt", "ab"]) == 1
    assert "block_length" in capsys.readouterr().err


def test_showing_the_denoising_changes_nothing_on_standard_output(project, capsys):
    for name, sampler in (("masked", "ancestral"), ("masked", "confidence"), ("ar", "autoregressive")):
        arguments = ["generate", name, "--sampler", sampler, "--nfe", "4", "--count", "2", "--prompt", "ab"]
        assert cli.run(arguments) == 0
        plain = capsys.readouterr().out
        assert cli.run([*arguments, "--show", "--pause", "0"]) == 0
        out, err = capsys.readouterr()
        assert out == plain
        states = [line[6:] for line in err.splitlines()]
        assert states[-2:] == [" ".join(text.split()) for text in out.splitlines()]
        undecided = [state.count("▒") for state in states[::2]]
        assert undecided[0] == 6
        assert undecided[-1] == 0
        assert undecided == sorted(undecided, reverse=True)


def test_letters_that_the_training_text_had_as_spaces_are_named(project, capsys):
    normalise = {"_target_": "isocline.datasets.text.Normalisation", "ascii": True, "lowercase": True}
    (project / "data/text/card.json").write_text(json.dumps({"normalise": normalise}))
    arguments = ["generate", "masked", "--sampler", "ancestral", "--nfe", "2", "--prompt"]
    assert cli.run([*arguments, "a漢b漢"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("a b ")
    assert err == "isocline: note: '漢' of --prompt is read as a space, as it was in the training text\n"
    assert cli.run([*arguments, "áB c"]) == 0
    assert capsys.readouterr().err == ""


def test_an_error_of_one_request_is_not_blamed_on_the_sampler(project, capsys):
    arguments = ["generate", "masked", "--sampler", "twisted", "--prompt", "ab", "--nfe"]
    assert cli.run([*arguments, "1"]) == 1
    assert "nfe = 1" in (err := capsys.readouterr().err)
    assert "does not suit" not in err
    assert cli.run([*arguments, "8"]) == 0


def test_options_of_the_law_reach_the_sampler(project, capsys):
    texts = set()
    for seed in ("0", "1"):
        arguments = ["generate", "masked", "--sampler", "confidence", "--temperature", "0", "--seed", seed]
        assert cli.run([*arguments, "--nfe", "8"]) == 0, capsys.readouterr().err
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1  # greedy: no draw decides


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sample", "masked", "--sampler", "euler"], ["masked", "isocline generate"]),
        (["generate", "masked", "--sampler", "ancestral", "--gap", "2", "--prompt", "ab"], ["--gap", "___"]),
        (["generate", "masked", "--sampler", "ancestral", "--gap", "7", "--prompt", "a___b"], ["--gap 6 at most"]),
        (["generate", "masked", "--sampler", "ancestral", "--temperature", "-1"], ["--temperature -1: ", "at least 0"]),
        (
            ["generate", "masked", "--sampler", "ancestral", "--temperature", "nan"],
            ["--temperature nan", "not a finite"],
        ),
        (
            ["generate", "masked", "--sampler", "ancestral", "--temperature", "inf"],
            ["--temperature inf", "not a finite"],
        ),
        (["generate", "masked", "--sampler", "ancestral", "--gap", "2", "--prompt", "ab___"], ["--gap 2", "--length"]),
        (["generate", "masked", "--sampler", "ancestral", "--label", "1"], ["--label 1", "leave it out"]),
        (["generate", "masked", "--sampler", "block"], ["--sampler block does not suit masked", "use --sampler"]),
        (
            ["generate", "masked", "--sampler", "euler", "--top-p", "0.5"],
            ["--sampler euler does not suit", "ancestral"],
        ),
        (["generate", "flow"], ["flow is a model of images", "isocline sample flow"]),
        (["generate", "masked", "--sampler", "detailed_balance", "--top-p", "0.5"], ["--top-p", "leave it out"]),
        (["generate", "masked", "--sampler", "ancestral", "--prompt", "abba abba"], ["9 of 8 tokens"]),
        (["generate", "masked", "--sampler", "ancestral", "--prompt", "xa"], ["'x'"]),
        (["generate", "masked", "--sampler", "ancestral", "--length", "9"], ["--length 9", "give 8 at most"]),
        (["generate", "masked", "--sampler", "unknown"], ["unknown", "ancestral"]),
        (["sample", "flow", "--sampler", "euler", "--out", "nowhere/x.png"], ["nowhere", "make it first"]),
        (["sample", "flow", "--sampler", "euler", "--out", "data"], ["--out data", "folder", "data/grid.png"]),
        (["sample", "flow", "--sampler", "ancestral"], ["--sampler ancestral", "flow", "AncestralSampler", "euler"]),
        (["sample", "flow", "--sampler", "autoregressive"], ["--sampler autoregressive", "flow", "euler"]),
        (["generate", "masked", "--sampler", "euler"], ["--sampler euler", "masked", "ancestral", "confidence"]),
        (["generate", "masked", "--sampler", "autoregressive"], ["--sampler autoregressive", "masked", "ancestral"]),
        (["generate", "ar", "--sampler", "ancestral"], ["--sampler ancestral", "ar", "use --sampler autoregressive"]),
        (["sample", "flow"], ["params.yaml", "isocline compose"]),
        (["sample", "flaw", "--sampler", "euler"], ["did you mean 'flow'"]),
    ],
)
def test_what_does_not_fit_is_one_line(project, capsys, arguments, parts):
    assert cli.run(arguments) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert not list(project.glob("*.png"))


def test_the_samplers_that_are_named_as_a_cure_work(project, capsys):
    assert cli.run(["generate", "masked", "--sampler", "euler"]) == 1
    names = re.split(", | or ", capsys.readouterr().err.rpartition("use --sampler ")[2].strip())
    assert len(names) > 5
    assert "autoregressive" not in names
    for name in names:
        assert cli.run(["generate", "masked", "--sampler", name.strip(), "--nfe", "2"]) == 0, capsys.readouterr().err


def test_a_sampler_in_params_yaml_that_does_not_suit_is_named(project, capsys):
    sampler = "{_target_: isocline.samplers.consistency.ConsistencySampler}"
    (project / "params.yaml").write_text(f"models: {{masked: {{sampler: {sampler}}}, flow: {{sampler: x}}}}\n")
    for name, parts in (("masked", ["masked in params.yaml", "ancestral"]), ("flow", ["params.yaml", "_target_"])):
        assert cli.run(["generate" if name == "masked" else "sample", name]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert all(part in err for part in parts), err


def test_a_sampler_file_that_is_not_yaml_is_named(project, capsys):
    (project / "conf" / "sampler" / "euler.yaml").write_text("# x\na: [\n")
    assert cli.run(["sample", "flow", "--sampler", "euler"]) == 1
    err = capsys.readouterr().err
    assert "conf/sampler/euler.yaml is not YAML" in err
    assert err.count("\n") == 1
    assert cli.run(["sample", "flow", "--sampler", "ancestral"]) == 1
    assert "use --sampler" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1\n",
        "a: [\n",
        "\x00",
        "name: flow\nmodality: images\n",
        "name: flow\nmodality: images\nobjective: {}\nnetwork: null\n",
        "name: flow\nmodality: images\nobjective: {}\nnetwork: {_target_: isocline.nowhere.Net}\n",
        "name: flow\nmodality: images\nobjective: {}\n"
        "network: {_target_: isocline.networks.transformer.PatchTransformer, colour: red}\n",
    ],
    ids=["empty", "list", "not YAML", "control character", "short", "no network", "no class", "no such argument"],
)
def test_a_damaged_model_configuration_is_named_with_the_cure(project, capsys, text):
    (project / "data" / "models" / "flow" / "model.yaml").write_text(text)
    assert cli.run(["sample", "flow", "--sampler", "euler"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "flow/model.yaml" in err
    assert "isocline repro" in err


@pytest.mark.parametrize("text", ["{", "[]", '{"normalise": {"_target_": "isocline.nowhere.X"}}', '{"normalise": 3}'])
def test_a_damaged_data_card_is_named_and_the_prompt_is_not_blamed(project, capsys, text):
    (project / "data" / "text" / "card.json").write_text(text)
    arguments = ["generate", "masked", "--sampler", "ancestral", "--nfe", "2"]
    assert cli.run([*arguments, "--prompt", "abc"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "data/text/card.json is damaged" in err
    assert "--prompt" not in err
    assert cli.run(arguments) == 0


@pytest.mark.parametrize("alphabet", ["abc ", "abcdef "])
def test_a_tokenizer_of_another_size_is_named(project, capsys, alphabet):
    CharacterTokenizer(len(alphabet) + 1).train([], alphabet).save(project / "data/text/tokenizer.json")
    assert cli.run(["generate", "masked", "--sampler", "ancestral"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in ("tokenizer.json", f"{len(alphabet) + 1} tokens", "6", "isocline repro")), err


def test_a_tracking_store_that_is_away_is_one_line(project, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert cli.run(["sample", "0" * 32, "--sampler", "euler"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in ("0" * 32, "http://127.0.0.1:9", "MLFLOW_TRACKING_URI")), err
    assert len(err) < 400


def test_damaged_weights_are_named_with_the_cure(project, capsys):
    path = project / "data" / "models" / "flow" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert cli.run(["sample", "flow", "--sampler", "euler"]) == 1
    assert "weights.safetensors" in capsys.readouterr().err


def test_a_model_is_found_by_name_and_by_path(project):
    assert resolve_model("flow", Path()) == Path("data/models/flow")
    assert resolve_model("data/models/flow", Path()) == Path("data/models/flow")


@pytest.mark.slow
def test_a_model_is_found_by_the_run_that_made_it(project):
    from isocline.tracking.provenance import digest
    from isocline.tracking.store import connect

    client, experiment = connect()
    tag = {"out.data/models/flow": digest(Path("data/models/flow"))}
    made = client.create_run(experiment, tags=tag).info.run_id
    other = client.create_run(experiment, tags={"out.data/models/flow": "0" * 32}).info.run_id
    none = client.create_run(experiment).info.run_id
    assert resolve_model(made, Path()) == Path("data/models/flow")
    with pytest.raises(ValueError, match="dvc checkout"):
        resolve_model(other, Path())
    with pytest.raises(ValueError, match="made no model"):
        resolve_model(none, Path())


@pytest.fixture
def conditional(project):
    network = {"_target_": "isocline.networks.transformer.PatchTransformer", **PATCH, "classes": 3}
    objective = {"_target_": "isocline.objectives.matching.DenoisingMatching"}
    save(project, "digits", "images", network, GAUSSIAN, objective)
    save(project, "worse", "images", network, GAUSSIAN, objective)
    return project


def test_a_class_and_its_guidance_are_chosen_by_options(conditional, capsys):
    for guidance, spent in (("classifier_free", 8), ("autoguidance", 8), ("interval", 7)):
        arguments = ["sample", "digits", "--sampler", "euler", "--n", "2", "--nfe", "8", "--class", "1"]
        arguments += ["--guidance", guidance.replace("_", "-").title(), "--scale", "1.5"]
        assert cli.run(arguments) == 0, capsys.readouterr().err
        assert f"{spent} evaluations" in capsys.readouterr().out
    assert cli.run(["sample", "digits", "--sampler", "guided", "--n", "2", "--nfe", "8"]) == 0, capsys.readouterr().err
    assert "8 evaluations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["flow", "--class", "1"], ["--class", "flow", "experiment=conditional"]),
        (["flow", "--guidance", "interval"], ["--guidance", "not class-conditional"]),
        (["digits", "--class", "3"], ["--class 3", "0 to 2"]),
        (["digits", "--guidance", "none"], ["'none'", "classifier_free"]),
        (["digits", "--scale", "2"], ["--guidance", "isocline list guidance"]),
    ],
)
def test_a_class_or_guidance_that_does_not_fit_is_one_line(conditional, capsys, arguments, parts):
    assert cli.run(["sample", *arguments, "--sampler", "euler"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
