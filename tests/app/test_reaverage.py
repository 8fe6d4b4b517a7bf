"""Weights at another average: a tracked width gives back what was tracked, other models are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isocline import cli
from isocline.app.artifacts import load_model, save_model
from isocline.networks.mlp import MLP
from isocline.networks.power_ema import PowerFunctionAverage

NETWORK = {"_target_": "isocline.networks.mlp.MLP", "dim": 2, "width": 8, "depth": 1}
CONFIG = {
    "name": "m",
    "modality": "points",
    "process": None,
    "network": NETWORK,
    "objective": {"_target_": "isocline.objectives.matching.DenoisingMatching", "process": None},
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PowerFunctionAverage:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = MLP(2, 8, 1)
    average = PowerFunctionAverage(network, 0.1, tracked=(0.05, 0.1))
    for _ in range(40):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn_like(p))
        average.update(network)
    save_model(Path("data/models/m"), average.network, CONFIG, [{"step": 40, "loss": 0.5}], average.kept())
    save_model(Path("data/models/plain"), average.network, CONFIG, [{"step": 40}])
    return average


def weights(directory: str) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(load_model(Path(directory)).network.parameters())


def test_a_tracked_width_comes_back_and_the_history_stays(model: PowerFunctionAverage, capsys) -> None:  # type: ignore[no-untyped-def]
    assert cli.run(["average", "m", "--sigma-rel", "0.05", "--out", "other"]) == 0, capsys.readouterr().err
    assert "sigma_rel 0.05" in capsys.readouterr().out
    torch.testing.assert_close(weights("other"), model.averages[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights("data/models/m"), model.averages[1], rtol=1e-4, atol=1e-4)
    assert Path("other/history.csv").read_text() == Path("data/models/m/history.csv").read_text()
    assert not Path("other/averages.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["m", "--sigma-rel", "0.5", "--out", "other"], "sigma_rel = 0.5"),
        (["m", "--sigma-rel", "0.1", "--out", "other", "--step", "41"], "step 40"),
        (["m", "--sigma-rel", "0.1", "--out", "data/models/m"], "the model itself"),
        (["plain", "--sigma-rel", "0.1", "--out", "other"], "kept no averages"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(model, capsys, arguments: list[str], part: str) -> None:  # type: ignore[no-untyped-def]
    assert cli.run(["average", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert part in err
    assert not Path("other").exists()
