"""The stages of data and judges, run on small data in an empty folder."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from isocline.app.judges import load_image_judge, load_text_judges
from isocline.datasets.storage import file_digest
from isocline.datasets.text import KingJames
from isocline.datasets.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
TEXTS = [f"And the {a} said unto the {b}, Go; and he went.\n" for a in ("king", "man", "sea") for b in ("ox", "son")]


class SilentRun:
    """Keeps what a stage says about its data sets and takes everything else."""

    def __init__(self):
        self.datasets = {}

    def dataset(self, name, digest, source, context):
        self.datasets[name] = digest

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def stage(name):
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "pipeline" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def params(tmp_path, monkeypatch):
    text = "".join(TEXTS[i % len(TEXTS)] for i in range(60))
    starts = {1000000 + 1000 * (i + 1) + 1: i * len(text) // 60 for i in range(60)}
    path = tmp_path / "bible.py"
    path.write_text(f"bible = Bible(V.KING_JAMES, {text!r}, {starts!r})")
    monkeypatch.setattr(KingJames, "digest", hashlib.sha256(text.encode()).hexdigest())
    network = {"vocab_size": 50, "length": 8, "width": 16, "depth": 1, "heads": 2}
    return {
        "seed": 0,
        "accelerator": "cpu",
        "data": {
            "images": {
                "dataset": {"_target_": "isocline.datasets.images.Digits"},
                "splits": {"train": None, "judge": 100, "test": 100},
                "channels": 1,
                "size": 8,
                "classes": 10,
            },
            "text": {
                "dataset": {"_target_": "isocline.datasets.text.KingJames", "path": str(path)},
                "normalise": {"_target_": "isocline.datasets.text.Normalisation"},
                "tokenizer": {"_target_": "isocline.datasets.tokenizer.BytePairTokenizer", "vocab_size": 50},
                "length": 8,
                "splits": {"train": 0.5, "judge": 0.3, "valid": 0.1, "test": 0.1},
            },
        },
        "judge": {
            "images": {
                "network": {
                    "_target_": "isocline.metrics.judge_image.ImageJudge",
                    "channels": 1, "size": 8, "classes": 10, "width": 4, "num_features": 8,
                },
                "training": {"steps": 3, "batch_size": 8, "lr": 0.001},
            },
            "text": {
                "order": 3,
                "network": {
                    "_target_": "isocline.networks.transformer.TokenTransformer",
                    "causal": True, "time_conditioned": False, **network,
                },
                "training": {"steps": 3, "batch_size": 8, "lr": 0.001},
                "test_rows": None,
            },
        },
    }  # fmt: skip


def everything(params, folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    run = SilentRun()
    for name in ("prepare_images", "prepare_text", "judge_images", "judge_text"):
        stage(name)(run, params, None)
    return run, {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_all_outputs_are_the_same_bytes_when_made_again(params, tmp_path, monkeypatch):
    _, first = everything(params, tmp_path / "a", monkeypatch)
    torch.rand(5)
    _, again = everything(params, tmp_path / "b", monkeypatch)
    assert first == again
    assert set(first) == {
        *(
            f"data/images/{name}"
            for name in ("train.safetensors", "judge.safetensors", "test.safetensors", "card.json")
        ),
        *(f"data/text/{name}.safetensors" for name in ("train", "judge", "valid", "test")),
        *("data/images/card.json", "data/text/card.json", "data/text/tokenizer.json"),
        *(f"data/judges/images/{name}" for name in ("weights.safetensors", "model.yaml")),
        *(f"data/judges/text/{name}" for name in ("weights.safetensors", "ngram.safetensors", "model.yaml")),
        *("metrics/judge-images.json", "metrics/judge-text.json"),
    }
    everything({**params, "seed": 1}, tmp_path / "c", monkeypatch)
    assert Path("data/images/train.safetensors").read_bytes() != first["data/images/train.safetensors"]


def test_cards_say_what_lies_beside_them(params, tmp_path, monkeypatch):
    run, _ = everything(params, tmp_path / "a", monkeypatch)
    for modality in ("images", "text"):
        folder = Path("data") / modality
        card = json.loads((folder / "card.json").read_text())
        for name, digest in card["sha256"].items():
            assert file_digest(folder / name) == digest
        assert set(run.datasets.values()) >= {d for n, d in card["sha256"].items() if n.endswith(".safetensors")}
    assert card["vocab_size"] == 50
    assert card["mask_index"] == 49
    tokenizer = Tokenizer.load(Path("data/text/tokenizer.json"))
    for name, split in card["splits"].items():
        tensors = load_file(f"data/text/{name}.safetensors")
        text = "".join(tokenizer.decode_batch(tensors["tokens"]))
        assert split["characters"] == int(tensors["characters"].sum()) == len(text)
        assert split["tokens"] == tensors["tokens"].numel()


def test_judges_read_back_are_the_judges_that_were_measured(params, tmp_path, monkeypatch):
    everything(params, tmp_path / "a", monkeypatch)
    test = load_file("data/images/test.safetensors")
    judge = load_image_judge()
    right = (judge.logits(test["images"]).argmax(1) == test["labels"]).double().mean()
    assert float(right) == json.loads(Path("metrics/judge-images.json").read_text())["accuracy"]["mean"]
    text, document = load_file("data/text/test.safetensors"), json.loads(Path("metrics/judge-text.json").read_text())
    for name, key in (("ar", "bits_per_char"), ("ngram", "bits_per_char_ngram")):
        nats = load_text_judges()[name](text["tokens"]).sum()
        bits = float(nats / text["characters"].sum() / torch.tensor(2.0).double().log())
        assert bits == pytest.approx(document[key]["mean"], rel=1e-9)


def test_a_size_that_the_data_do_not_have_is_named(params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params["data"]["images"]["size"] = 28
    with pytest.raises(ValueError, match="1, 28, 10; digits has 1, 8, 10: set these"):
        stage("prepare_images")(SilentRun(), params, None)
    assert not (tmp_path / "data").exists()


def test_a_judge_that_does_not_fit_its_configuration_is_refused(params, tmp_path, monkeypatch):
    everything(params, tmp_path / "a", monkeypatch)
    config = Path("data/judges/images/model.yaml")
    config.write_text(config.read_text().replace("width: 4", "width: 5"))
    with pytest.raises(ValueError, match="does not fit"):
        load_image_judge()
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        load_image_judge(tmp_path / "nowhere")
