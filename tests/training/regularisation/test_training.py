"""Training with regularisers: it resumes to the bit, and what it leaves is a model like any other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.training.interruption import Stop, StopAt
from torch import nn

from isocline.app import training_stage
from isocline.app.artifacts import build, load_model, save_model
from isocline.app.regularisers import built, recorded
from isocline.app.student_network import start_network
from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.transformer import PatchTransformer, TokenTransformer
from isocline.objectives.matching import DenoisingMatching
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.training.fit import fit
from isocline.training.module import GenerativeModule
from isocline.training.regularisation.jacobian_frobenius import JacobianFrobenius
from isocline.training.regularisation.kinetic_energy import KineticEnergy
from isocline.training.regularisation.lipschitz_cap import LipschitzCap
from isocline.training.regularisation.parameter_smoothness import ParameterSmoothness
from isocline.training.regularisation.regularised import Regularised
from isocline.training.regularisation.spectral_norm import SpectralNorm
from isocline.training.regularisation.state_smoothness import StateSmoothness
from isocline.training.regularisation.stochastic_depth import StochasticDepth
from isocline.training.regularisation.weight_tying import WeightTying
from isocline.training.settings import FitSettings

STEPS = 16
WHERE = "isocline.training.regularisation"


def regularisers(tied: bool):
    many = {
        "drop": StochasticDepth(0.4),
        "states": StateSmoothness(0.01),
        "kinetic": KineticEnergy(0.01),
        "jacobian": JacobianFrobenius(0.01),
    }
    rest = {"tie": WeightTying(), "norm": SpectralNorm()} if tied else {"cap": LipschitzCap(0.9)}
    return {**rest, **({} if tied else {"parameters": ParameterSmoothness(0.01)}), **many}


def module(tied: bool) -> GenerativeModule:
    torch.manual_seed(0)
    network = PatchTransformer(1, 8, 4, 8, 3, 2)
    objective = DenoisingMatching(GaussianProcess(LinearSchedule(), VelocityPrediction()))
    return GenerativeModule(
        network,
        Regularised(objective, regularisers(tied)),
        partial(torch.optim.AdamW, lr=1e-2),
        partial(ExponentialMovingAverage, decay=0.9),
        seed=7,
        steps=STEPS,
    )


def run(directory: Path, tied: bool, **kwargs):
    settings = FitSettings(steps=STEPS, batch_size=8, warmup=2, log_every=4, checkpoint_seconds=1e9)
    data = {"x0": torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))}
    return fit(module(tied), data, settings, directory, label="test", **kwargs)


@pytest.mark.parametrize("tied", [False, True])
def test_a_regularised_run_that_was_interrupted_ends_with_the_same_bits(tmp_path: Path, tied: bool) -> None:
    whole = run(tmp_path / "whole", tied)
    with pytest.raises(Stop):
        run(tmp_path / "cut", tied, extra=(StopAt(tmp_path / "cut", 6, 9),))
    resumed = run(tmp_path / "cut", tied)
    assert resumed.resumed_from == 6
    assert whole.history == resumed.history
    for one, other in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    logged = {
        "drop",
        "states",
        "kinetic",
        "jacobian",
        "objective",
        "mse",
        *({"norm"} if tied else {"cap", "parameters"}),
    }
    assert logged <= whole.history[0].keys()


def section(**chosen):
    network = {"_target_": f"{PatchTransformer.__module__}.PatchTransformer", "channels": 1, "size": 8, "patch": 4}
    return {
        "network": {**network, "width": 8, "depth": 3, "heads": 2},
        "process": {
            "_target_": "isocline.processes.gaussian.GaussianProcess",
            "schedule": {"_target_": "isocline.processes.schedule.LinearSchedule"},
            "prediction": {"_target_": "isocline.processes.prediction.VelocityPrediction"},
        },
        "objective": {"_target_": "isocline.objectives.matching.DenoisingMatching"},
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01},
        "ema": {"_target_": "isocline.networks.ema.ExponentialMovingAverage", "_partial_": True, "decay": 0.9},
        "trainer": {"_target_": "isocline.training.settings.FitSettings", "steps": 6, "batch_size": 8, "log_every": 3},
        "regularisers": chosen,
    }


TIED = {"_target_": f"{WHERE}.weight_tying.WeightTying"}
NORM = {"_target_": f"{WHERE}.spectral_norm.SpectralNorm", "bound": 0.9}
EULER = {
    "_target_": "isocline.samplers.continuous.ContinuousSampler",
    "stepper": {"_target_": "isocline.solvers.explicit.Euler"},
    "grid": {"_target_": "isocline.samplers.grid.UniformTimeGrid"},
    "variable": {"_target_": "isocline.samplers.variable.TimeVariable"},
}
DROP = {"_target_": f"{WHERE}.stochastic_depth.StochasticDepth", "rate": 0.3}


def stage(tmp_path: Path, chosen, **trainer) -> tuple[nn.Module, dict]:
    """Train as the stage does and write the model; its logs end with its run."""
    torch.manual_seed(0)
    process = GaussianProcess(LinearSchedule(), VelocityPrediction())
    record = SimpleNamespace(directory=tmp_path / "run", metrics=lambda values, step: None)
    part = section(**chosen)
    part["trainer"] |= trainer
    data = {"x0": torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))}
    network, objective = PatchTransformer(1, 8, 4, 8, 3, 2), DenoisingMatching(process)
    result = training_stage.train(record, "train toy", network, objective, part, data, 3)
    config = {"name": "toy", "modality": "images", "teacher": None, **{k: part[k] for k in ("process", "network")}}
    config |= {"objective": part["objective"], **recorded(part)}
    save_model(tmp_path / "toy", result.network, config, result.history)
    return result.network, part


def test_a_regularised_model_loads_samples_and_teaches_like_any_other(tmp_path: Path) -> None:
    network, part = stage(tmp_path, {"tie": TIED, "norm": NORM, "drop": DROP})
    model = load_model(tmp_path / "toy")
    assert model.config["regularisers"] == part["regularisers"]
    assert isinstance(model.objective, DenoisingMatching)
    t, x = torch.linspace(0.1, 0.9, 4), torch.randn(4, 1, 8, 8)
    assert torch.equal(model.network(t, x), network(t, x))
    sampled = build(EULER).sample(Denoiser(model.network, model.process), x, 4)
    assert bool(torch.isfinite(sampled.final).all())
    student, _ = start_network(model, {"network": {}, "start": "teacher"}, "students.s", 0)
    assert torch.equal(student.eval()(t, x), network(t, x))
    blocks = model.network.trunk.blocks
    assert torch.equal(blocks[0].mlp[0].weight, blocks[2].mlp[0].weight)
    norm = torch.linalg.matrix_norm(blocks[0].mlp[0].weight, 2)
    torch.testing.assert_close(norm, torch.tensor(0.9))


def test_a_network_with_hooks_is_not_compiled_and_the_log_says_so(tmp_path: Path, capsys) -> None:
    stage(tmp_path, {"drop": DROP}, compile=True)
    assert "train toy: not compiled, for the hooks of drop" in capsys.readouterr().out


def test_averages_of_other_parameters_are_refused_before_training(tmp_path: Path) -> None:
    part = section(norm=NORM)
    part["ema"] = {"_target_": "isocline.networks.power_ema.PowerFunctionAverage", "_partial_": True}
    record = SimpleNamespace(directory=tmp_path, metrics=lambda values, step: None)
    with pytest.raises(ValueError, match=r"regularisers.norm trains other parameters.*classic average"):
        training_stage.train(record, "train toy", nn.Identity(), DenoisingMatching(None), part, {}, 0)  # type: ignore[arg-type]


def test_a_section_without_regularisers_has_none_and_records_none() -> None:
    assert built({}) == built({"regularisers": {}}) == built({"regularisers": None}) == {}
    assert recorded({"regularisers": {}}) == {}
    assert isinstance(TokenTransformer(3, 2, 4, 1, 1), nn.Module)
