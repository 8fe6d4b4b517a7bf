"""Text models as configured: each is built from its file, trained, stored, read back, and samples real tokens."""

from pathlib import Path

import pytest
import torch

from isocline.app.artifacts import build, load_model, save_model
from isocline.app.compose import compose
from isocline.datasets.batch import Batch

ROOT = Path(__file__).parents[2]
NAMES = ["uniform", "hybrid", "sedd", "dfm"]
D3PM = "masked"
ALL = {"ar", "masked", "block", *NAMES, "simplex", "gaussian_onehot", "embedding"}


@pytest.fixture(scope="module")
def models():
    overrides = ["profile=smoke", "data.text.vocab_size=12", "objective@models.masked.objective=d3pm"]
    config = compose(overrides, ROOT, validate=False).config
    for name in (*NAMES, D3PM):
        config["models"][name]["network"].update(width=16, depth=1, length=6)
    return config["models"]


@pytest.mark.parametrize("name", [*NAMES, D3PM])
def test_it_trains_is_stored_and_samples_real_tokens(models, name, tmp_path):
    section = models[name]
    torch.manual_seed(0)
    process = build(section["process"])
    network, objective = build(section["network"]), build(section["objective"], process=process)
    stream = torch.Generator().manual_seed(0)
    # Texts of one symbol each: from one token all others follow.
    tokens = torch.randint(11, (64, 1), generator=stream).expand(-1, 6)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = objective(network, Batch(tokens), stream).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert torch.stack(losses[-10:]).mean() < 0.8 * torch.stack(losses[:5]).mean()

    parts = {key: section[key] for key in ("process", "network", "objective")}
    save_model(tmp_path / name, network, {"name": name, "modality": "text", "teacher": None, **parts}, [{"step": 1.0}])
    read = load_model(tmp_path / name, section["sampler"])
    times = torch.full((4,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(read.network(times, tokens[:4]), network(times, tokens[:4]))
    found = read.objective.negative_log_likelihood(read.network, tokens, torch.Generator().manual_seed(1), strata=8)
    assert found.kind == ("flow bound" if name == "dfm" else "bound")
    assert found.nats.isfinite().all()
    final = read.sampler.sample(read.network, read.process, (32, 6), 8, torch.Generator().manual_seed(2)).final
    assert final.shape == (32, 6)
    assert final.min() >= 0
    assert final.max() < 11


def test_all_ten_are_of_one_size_within_a_twentieth_of_the_autoregressive_one():
    models = compose(["experiment=language"], ROOT, validate=False).config["models"]
    sizes = {
        name: sum(parameter.numel() for parameter in build(section["network"]).parameters())
        for name, section in models.items()
        if section["modality"] == "text"
    }
    assert set(sizes) >= ALL
    assert {name: size for name, size in sizes.items() if abs(size / sizes["ar"] - 1) >= 0.05} == {}
