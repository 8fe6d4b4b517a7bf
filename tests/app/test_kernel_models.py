"""Every kernel that no default model uses: composed, trained for a few steps, read back and sampled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from isocline.app.artifacts import load_model
from isocline.app.compose import compose
from isocline.app.training_stage import train_model

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "span": ("span", "masked", "span", "token_transformer"),
    "learned": ("absorbing_learned", "masked_learned", "confidence", "token_transformer"),
    "tokenwise": ("absorbing_tokenwise", "masked_tokenwise", "ancestral", "timed_token_transformer"),
    "frequency": ("structured", "dfm", "tau_leaping", "timed_token_transformer"),
    "frequency_d3pm": ("structured", "d3pm", "ancestral", "timed_token_transformer"),
    "distance": ("structured_distance", "d3pm", "ancestral", "timed_token_transformer"),
}


class Run:
    """A stage's run that takes everything and keeps nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.fixture(scope="module")
def models():
    """Their sections of params.yaml, by name, from one composition."""
    overrides = ["data.text.vocab_size=12", "data.text.length=8"]
    for name, (kernel, objective, sampler, network) in VARIANTS.items():
        overrides += [
            f"+model@models.{name}={'dfm' if kernel == 'structured' else 'masked'}",
            f"process@models.{name}.process={kernel}",
            f"objective@models.{name}.objective={objective}",
            f"sampler@models.{name}.sampler={sampler}",
            f"network@models.{name}.network={network}",
            f"models.{name}.network.width=16",
            f"models.{name}.network.depth=1",
            f"models.{name}.trainer.steps=3",
        ]
    return compose(overrides, ROOT, validate=False).config["models"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_kernel_trains_comes_back_and_generates(name, models, tmp_path: Path, monkeypatch) -> None:
    section, (kernel, objective, *_) = models[name], VARIANTS[name]
    monkeypatch.chdir(tmp_path)
    tokens = torch.randint(11, (200, 8), generator=torch.Generator().manual_seed(0))
    Path("data/text").mkdir(parents=True)
    save_file({"tokens": tokens}, "data/text/train.safetensors")
    if kernel == "structured_distance":
        section["process"]["embeddings"]["width"] = 4
    train_model(Run(tmp_path / "run"), "tiny", "text", section, Path("data/text"), seed=0)
    model = load_model(Path("data/models/tiny"), section["sampler"])
    if "learned" in objective or "tokenwise" in objective:
        fresh = type(model.process.schedule)(*([12] if "tokenwise" in objective else [16]))
        learned, start = model.process.schedule.state_dict(), fresh.state_dict()
        assert any(not torch.equal(learned[name], start[name]) for name in start)
    generator = torch.Generator().manual_seed(1)
    solution = model.sampler.sample(model.network, model.process, (3, 8), 4, generator)
    assert ((solution.final >= 0) & (solution.final < 11)).all()
    found = model.objective.negative_log_likelihood(model.network, tokens[:4], generator, 8)
    assert found.kind == ("flow bound" if objective == "dfm" else "bound")
    assert found.nats.isfinite().all()


def test_a_composition_may_name_frequencies_of_text_that_is_not_prepared_yet(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["process@models.dfm.process=structured", "data.text.vocab_size=64"]
    section = compose(overrides, ROOT).config["models"]["dfm"]["process"]
    assert section["frequencies"]["vocab_size"] == 64
