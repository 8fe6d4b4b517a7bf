"""Trained models as fields: integrated at a sampler's own steps they give the sampler's own result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isocline.app.artifacts import build_parts, load_model, save_model
from isocline.app.trained_field import depth_field, trained_field
from isocline.datasets.storage import write_tensors
from isocline.dynamics.flow_field import VARIABLE, flow_start
from isocline.dynamics.trained_field import TrainedField
from isocline.objectives.continuous_flow import ContinuousFlow
from isocline.processes.denoiser import Denoiser
from isocline.processes.rounding import NearestRounding
from isocline.randomness import generator
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.embedding import EmbeddingSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.simplex import SimplexSampler
from isocline.samplers.variable import TimeVariable
from isocline.solvers.controller import ConstantSteps, FixedGrid
from isocline.solvers.explicit import RK4, Euler
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem
from isocline.solvers.solution import SaveAt

LENGTH, VOCABULARY = 6, 11
TEXT = {"vocab_size": VOCABULARY, "length": LENGTH, "width": 8, "depth": 2, "heads": 2}
MATCHING = {"_target_": "isocline.objectives.matching.DenoisingMatching"}


def gaussian(schedule: str, prediction: str, **more: Any) -> dict[str, Any]:
    return {
        "_target_": "isocline.processes.gaussian.GaussianProcess",
        "schedule": {"_target_": f"isocline.processes.schedule.{schedule}"},
        "prediction": {"_target_": f"isocline.processes.prediction.{prediction}"},
        **more,
    }


def network(path: str, **sizes: Any) -> dict[str, Any]:
    return {"_target_": f"isocline.networks.{path}", **sizes}


COSINE = {"_target_": "isocline.processes.schedule.VPCosineSchedule", "max_log_ratio": 3.0}
UNET = network("unet.UNet", channels=1, size=8, width=8, multipliers=[1, 2])
KERNEL = {
    "_target_": "isocline.processes.kernel.AbsorbingKernel",
    "vocab_size": VOCABULARY,
    "schedule": {"_target_": "isocline.processes.token_schedule.LinearSurvival"},
}
MODELS: dict[str, dict[str, Any]] = {
    "flow": {
        "modality": "images",
        "process": gaussian("LinearSchedule", "VelocityPrediction"),
        "network": UNET,
        "objective": MATCHING,
    },
    "vp": {
        "modality": "images",
        "process": gaussian("VPLinearSchedule", "NoisePrediction", t_min=0.001),
        "network": {**UNET, "classes": 3},
        "objective": MATCHING,
    },
    "simplex": {
        "modality": "text",
        "process": {"_target_": "isocline.processes.dirichlet_path.DirichletPath", "vocab_size": VOCABULARY},
        "network": network("soft_token_transformer.SoftTokenTransformer", **TEXT),
        "objective": {"_target_": "isocline.objectives.simplex_flow.SimplexFlow"},
    },
    "gaussian_onehot": {
        "modality": "text",
        "process": {"_target_": "isocline.processes.onehot_path.OneHotGaussianPath", "vocab_size": VOCABULARY},
        "network": network("soft_token_transformer.SoftTokenTransformer", **TEXT),
        "objective": {"_target_": "isocline.objectives.simplex_flow.OneHotGaussianFlow"},
    },
    "embedding": {
        "modality": "text",
        "process": {
            "_target_": "isocline.processes.embedding.EmbeddingProcess",
            "vocab_size": VOCABULARY,
            "schedule": COSINE,
        },
        "network": network(
            "embedding_transformer.EmbeddingTransformer", **TEXT, dimension=4, self_conditioning=False, schedule=COSINE
        ),
        "objective": {"_target_": "isocline.objectives.embedding_diffusion.EmbeddingDiffusion"},
    },
    "masked": {
        "modality": "text",
        "process": KERNEL,
        "network": network("transformer.TokenTransformer", **TEXT, time_conditioned=False),
        "objective": {"_target_": "isocline.objectives.masked.MaskedDiffusion"},
    },
    "ar": {
        "modality": "text",
        "process": None,
        "network": network("transformer.TokenTransformer", **TEXT, causal=True, time_conditioned=False),
        "objective": {"_target_": "isocline.objectives.autoregressive.AutoregressiveObjective"},
    },
    "cnf": {
        "modality": "points",
        "process": None,
        "network": network("concat_squash.ConcatSquashMLP", dim=2, width=8),
        "objective": {"_target_": "isocline.objectives.maximum_likelihood.ContinuousMaximumLikelihood"},
    },
    "coupling": {
        "modality": "points",
        "process": None,
        "network": network("normalizing_flow.CouplingFlow", dim=2, layers=2, width=8),
        "objective": {"_target_": "isocline.objectives.maximum_likelihood.MaximumLikelihood"},
    },
    "node": {
        "modality": "images",
        "process": None,
        "network": network(
            "ode_classifier.ODEClassifier", channels=1, size=8, classes=3, width=4,
            stepper={"_target_": "isocline.solvers.explicit.RK4"},
            controller={"_target_": "isocline.solvers.controller.ConstantSteps", "n": 3},
        ),
        "objective": {"_target_": "isocline.objectives.classification.Classification"},
    },
    "resnet": {
        "modality": "images",
        "process": None,
        "network": network("classifier.ResidualClassifier", channels=1, size=8, classes=3, width=4, blocks=3),
        "objective": {"_target_": "isocline.objectives.classification.Classification"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every kind with stirred weights, beside data."""
    data, draw = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(5)
    for name, parts in MODELS.items():
        config: Mapping[str, Any] = {"name": name, "teacher": None, **parts}
        made, process, _ = build_parts(config)
        with torch.no_grad():
            for weight in made.parameters():
                weight += 0.2 * torch.randn(weight.shape, generator=draw)
        save_model(data / "models" / name, made, config, [{"step": 1.0, "loss": 1.0}], process=process)
    pictures = torch.randint(0, 256, (9, 1, 8, 8), generator=draw, dtype=torch.uint8)
    write_tensors(data / "images" / "test.safetensors", {"images": pictures, "labels": torch.arange(9) % 3})
    tokens = torch.randint(0, VOCABULARY - 1, (9, LENGTH), generator=draw)
    write_tensors(data / "text" / "test.safetensors", {"tokens": tokens})
    return data / "models"


def on_grid(found: TrainedField, x: Tensor, positions: Tensor, cond: Tensor | None = None) -> Tensor:
    problem = ODEProblem(found.field, x, float(positions[0]), float(positions[-1]), cond)
    with torch.no_grad():
        return solve_strict(problem, Euler(), FixedGrid(positions), SaveAt(steps=True)).ys


def test_euler_on_the_samplers_grid_is_the_sampler_of_a_flow(root: Path) -> None:
    found, model = trained_field("flow", root), load_model(root / "flow")
    noise = torch.randn(3, 1, 8, 8, generator=generator(0, "noise"))
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable())
    wanted = sampler.sample(Denoiser(model.network, model.process), noise, 5).final
    assert (found.kind, found.start, found.end) == ("image", 1.0, 0.0)
    assert torch.allclose(on_grid(found, noise, torch.linspace(1, 0, 6))[-1], wanted, atol=1e-5)


def test_euler_on_the_samplers_grid_is_ddim_of_a_conditional_diffusion(root: Path) -> None:
    found, model = trained_field("vp", root), load_model(root / "vp")
    noise, cond = torch.randn(3, 1, 8, 8, generator=generator(0, "noise")), torch.tensor([0, 1, 2])
    grid = UniformTimeGrid()
    positions = grid(model.process, VARIABLE, 5)
    wanted = DDIMSampler(grid).sample(Denoiser(model.network, model.process), noise, 5, cond).final
    start = flow_start(model.process, noise)
    assert found.start == pytest.approx(float(positions[0]))
    assert torch.equal(found.condition(3, 0), cond)  # type: ignore[arg-type]
    ends = on_grid(found, start, positions, cond)[-1]
    assert (ends - wanted).norm() < 1e-6 * wanted.norm()  # float32; the untrained flow grows to hundreds
    assert not torch.allclose(on_grid(found, start, positions)[-1], wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["simplex", "gaussian_onehot"])
def test_euler_on_the_samplers_grid_is_the_sampler_of_relaxed_tokens(root: Path, name: str) -> None:
    found, model = trained_field(name, root), load_model(root / name)
    path = model.process
    solution = SimplexSampler(greedy_last=True).sample(
        model.network, path, (4, LENGTH), 6, generator(0, "text"), save_steps=True
    )
    start = path.prior((4, LENGTH), generator(0, "text"))
    times = torch.linspace(1, 0, 7, dtype=torch.float64)[:-1]
    states = on_grid(found, start, path.position(times))
    assert torch.equal(states.argmax(-1), solution.ys[:-1])
    with torch.no_grad():
        law = path.log_probs(model.network, times[-1], states[-1])
    assert torch.equal(law.argmax(-1), solution.final)
    assert found.kind == "text"
    assert found.start == float(path.position(torch.tensor(1.0, dtype=torch.float64)))


def test_euler_on_the_samplers_grid_is_the_sampler_of_embeddings(root: Path) -> None:
    found, model = trained_field("embedding", root), load_model(root / "embedding")
    gaussian_process, grid = model.process.gaussian, UniformTimeGrid()
    sampler = EmbeddingSampler(DDIMSampler(grid))
    wanted = sampler.sample(model.network, model.process, (4, LENGTH), 5, generator(0, "text")).final
    table: Tensor = model.network.table()  # type: ignore[operator]
    noise = gaussian_process.noise((4, LENGTH, table.shape[-1]), generator(0, "text"))
    end = on_grid(found, flow_start(gaussian_process, noise), grid(gaussian_process, VARIABLE, 5))[-1]
    assert torch.equal(NearestRounding.scores(end, table, 1.0).argmax(-1), wanted)
    assert wanted.unique().numel() > 2


def test_a_density_is_carried_from_noise_to_data_as_its_own_flow_does(root: Path) -> None:
    found, model = trained_field("cnf", root), load_model(root / "cnf")
    z = found.starts(5, 1)
    wanted = ContinuousFlow.on_grid(3).decode(model.network, z).x
    with torch.no_grad():
        end = solve_strict(ODEProblem(found.field, z.double(), 1.0, 0.0), RK4(), ConstantSteps(3)).final
    assert found.kind == "density"
    assert torch.allclose(end, wanted, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("node", "classifier"), ("resnet", "depth")])
def test_a_classifiers_field_and_readout_are_the_classifier(root: Path, name: str, kind: str) -> None:
    found, model = trained_field(name, root), load_model(root / name)
    images = torch.rand(4, 1, 8, 8, generator=generator(0, "images"))
    network: Any = model.network
    with torch.no_grad():
        problem = ODEProblem(found.field, network.stem(images), found.start, found.end)
        method = RK4() if name == "node" else Euler()
        end = solve_strict(problem, method, ConstantSteps(3)).final
        assert found.readout is not None
        assert torch.allclose(found.readout(end), network(images).logits, atol=1e-5)
    assert found.kind == kind
    assert found.labels is not None
    assert found.labels(4, 1).shape == (4,)


@pytest.mark.parametrize("name", MODELS)
def test_every_field_has_starts_that_depend_on_their_number_alone_and_a_derivative(root: Path, name: str) -> None:
    if name == "coupling":
        with pytest.raises(ValueError, match="coupling is a CouplingFlow: finitely many maps, no field"):
            trained_field(name, root)
        return
    found = trained_field(name, root)
    x = found.starts(3, 7)
    assert torch.allclose(x[:2], found.starts(2, 7))
    assert not torch.allclose(x, found.starts(3, 8))
    t, cond = torch.tensor(0.5 * (found.start + found.end), dtype=torch.float64), found.condition(3, 7)
    v = torch.randn(x.shape, generator=generator(0, "direction"))
    exact = found.in_dtype(torch.float64)
    slope, change = torch.func.jvp(lambda y: exact(t, y, cond), (x.double(),), (v.double(),))
    assert torch.allclose(slope, found.field(t, x, cond).double(), atol=1e-3 * float(slope.abs().max()))
    step = 1e-6 * v.double()
    difference = (exact(t, x + step, cond) - exact(t, x - step, cond)) / 2e-6
    assert torch.allclose(change, difference, atol=1e-4 * float(change.abs().max()))


@pytest.mark.parametrize("name", ["ar", "masked", "simplex", "gaussian_onehot", "embedding", "resnet"])
def test_a_network_with_residual_layers_is_read_in_depth(root: Path, name: str) -> None:
    found = depth_field(name, root)
    layers = 3 if name == "resnet" else 2
    assert (found.kind, found.start, found.end) == ("depth", 0.0, float(layers))
    x = found.starts(3, 7)
    with torch.no_grad():
        slopes = [found.field(torch.tensor(float(layer)), x) for layer in range(layers)]
    assert x.shape == slopes[0].shape
    assert not torch.allclose(slopes[0], slopes[1], atol=1e-3)


def test_a_network_without_such_layers_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="UNet has no stack of Transformer blocks"):
        depth_field("flow", root)
    with pytest.raises(ValueError, match="kind = 'sound'"):
        TrainedField("x", "sound", torch.nn.Linear(1, 1), lambda n: n, 0.0, 1.0, lambda n, s: torch.zeros(n, 1))
