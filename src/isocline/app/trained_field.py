"""Trained models and students by name as vector fields, with the states that they are used on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isocline.app.artifacts import LoadedModel, device_of, load_model, load_tensors
from isocline.datasets.quantisation import to_float
from isocline.dynamics.depth_field import depth_of, layer_field, residual_layers
from isocline.dynamics.flow_field import (
    VARIABLE,
    MemorylessEmbeddingDenoiser,
    flow_start,
    gaussian_field,
    token_path_field,
)
from isocline.dynamics.trained_field import TrainedField
from isocline.networks.classifier import ResidualClassifier
from isocline.networks.ode_classifier import ODEClassifier
from isocline.objectives.autoregressive import AutoregressiveObjective, begin_token
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood
from isocline.processes.denoiser import Denoiser
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.onehot_denoiser import OneHotDenoiser
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.processes.token_path import AbstractTokenPath
from isocline.randomness import derive_seed, generator, sample_noise

__all__ = ["depth_field", "trained_field"]

_ROOT = Path("data/models")


def trained_field(name: str, root: Path = _ROOT, accelerator: str = "cpu") -> TrainedField:
    """Read a trained model as the field that its own solver or sampler integrates.

    Images and latents: the probability flow of their process, from noise to data, in the variable of
    `isocline.dynamics.flow_field`. Relaxed tokens and embeddings: their flow. Continuous densities: from noise (t = 1)
    to data (t = 0). ODE classifiers: from the stem's features of test images, t = 0 to 1. Models of discrete tokens
    have no equation in t; they are read in depth, as residual classifiers are. A student of two times is read at
    equal ones.

    Args:
        name: of a model or student.
        root: folder of models; the data sets lie beside it.
        accelerator: see `isocline.app.artifacts.device_of`.

    Raises:
        FileNotFoundError: if the model, or the data that its states come from, is missing.
        ValueError: if it is damaged, or is no field (a normalising flow of finitely many maps, say).
    """
    source = _source(name, root, accelerator)
    model = source.model
    for owner, readers in (
        (model.process, _BY_PROCESS),
        (model.objective, _BY_OBJECTIVE),
        (model.network, _BY_NETWORK),
    ):
        for kind, reader in readers.items():
            if isinstance(owner, kind):
                return reader(source)
    if model.modality == "points":
        raise ValueError(
            f"{name} is a {type(model.network).__name__}: finitely many maps, no field; name a continuous one (cnf_…)"
        )
    return _depth(source, 0.5)


def depth_field(name: str, root: Path = _ROOT, accelerator: str = "cpu", time: float = 0.5) -> TrainedField:
    """Read a network in depth: `TrainedField` over [0, L], of which L Euler steps are the network.

    The states are what its first layer is given for rows of the test split: shifted by one for an autoregressive
    network, corrupted to ``time`` for others. A network that is conditioned on time is held at ``time``.

    Args:
        name: of a model or student.
        root: folder of models.
        accelerator: see `isocline.app.artifacts.device_of`.
        time: of the process, in [0, 1].

    Raises:
        FileNotFoundError: if the model or its data is missing.
        ValueError: if the network has no residual layers of one shape.
    """
    source = _source(name, root, accelerator)
    if isinstance(source.model.network, ResidualClassifier):
        return _residual_classifier(source)
    return _depth(source, time)


@dataclass(frozen=True)
class _Source:
    """A loaded model, and where its data lie."""

    model: LoadedModel
    name: str
    root: Path
    device: torch.device

    def size(self, key: str) -> int:
        """A size of the network by its configuration."""
        sizes = self.model.config["network"]
        if key not in sizes:
            raise ValueError(f"{self.root / self.name / 'model.yaml'}: network has no {key}, which its states need")
        return int(sizes[key])

    def rows(self, data: str, key: str, count: int, seed: int) -> Tensor:
        """Rows of the test split, drawn with replacement: row i depends on the seed and i alone."""
        found = load_tensors(self.root.parent / data / "test.safetensors")[key]
        picks = [derive_seed(seed, "row", index) % len(found) for index in range(count)]
        return found[torch.tensor(picks)].to(self.device)

    def noise(self, shape: tuple[int, ...]) -> Callable[[int, int], Tensor]:
        """Unit-variance noise by count and seed."""
        return lambda count, seed: sample_noise(seed, "starts", range(count), shape).to(self.device)


def _source(name: str, root: Path, accelerator: str) -> _Source:
    device = device_of(accelerator)
    return _Source(load_model(root / name, device=device), name, root, device)


def _image_flow(source: _Source) -> TrainedField:
    process: GaussianProcess = source.model.process
    classes = int(source.model.config["network"].get("classes", 0))
    draw = source.noise((source.size("channels"), source.size("size"), source.size("size")))
    return TrainedField(
        name=source.name,
        kind="image",
        network=source.model.network,
        make=lambda network: gaussian_field(Denoiser(network, process)),
        start=VARIABLE.start(process),
        end=VARIABLE.end(process),
        starts=lambda count, seed: flow_start(process, draw(count, seed)),
        labels=(lambda count, seed: torch.arange(count, device=source.device) % classes) if classes else None,
        conditional=classes > 0,
        denoiser=Denoiser(source.model.network, process),
    )


def _token_flow(source: _Source) -> TrainedField:
    path: AbstractTokenPath = source.model.process
    length, network = source.size("length"), source.model.network

    def starts(count: int, seed: int) -> Tensor:
        draws = [path.prior((1, length), generator(seed, "starts", index)) for index in range(count)]
        return torch.cat(draws).to(source.device)

    start, end = (float(path.position(torch.tensor(t, dtype=torch.float64))) for t in (path.t_max, path.t_min))
    return TrainedField(
        name=source.name,
        kind="text",
        network=network,
        make=lambda other: token_path_field(other, path),
        start=start,
        end=end,
        starts=starts,
        denoiser=OneHotDenoiser(network, path) if isinstance(path, OneHotGaussianPath) else None,
    )


def _embedding_flow(source: _Source) -> TrainedField:
    network, process = source.model.network, source.model.process
    gaussian: GaussianProcess = process.gaussian
    draw = source.noise((source.size("length"), int(network.table().shape[-1])))  # type: ignore[operator]
    return TrainedField(
        name=source.name,
        kind="text",
        network=network,
        make=lambda other: gaussian_field(MemorylessEmbeddingDenoiser(other, process)),
        start=VARIABLE.start(gaussian),
        end=VARIABLE.end(gaussian),
        starts=lambda count, seed: flow_start(gaussian, draw(count, seed)),
        denoiser=MemorylessEmbeddingDenoiser(network, process),
    )


def _density(source: _Source) -> TrainedField:
    return TrainedField(
        name=source.name,
        kind="density",
        network=source.model.network,
        make=lambda network: network,
        start=1.0,
        end=0.0,
        starts=source.noise((source.size("dim"),)),
    )


def _classifier(source: _Source) -> TrainedField:
    network: Any = source.model.network
    return TrainedField(
        name=source.name,
        kind="classifier",
        network=network,
        make=lambda other: other.field,  # type: ignore[arg-type, return-value]
        start=0.0,
        end=1.0,
        starts=lambda count, seed: _features(source, count, seed),
        labels=lambda count, seed: source.rows("images", "labels", count, seed),
        readout=lambda h: network.head(network.readout(h)),
    )


def _residual_classifier(source: _Source) -> TrainedField:
    network: Any = source.model.network
    return TrainedField(
        name=source.name,
        kind="depth",
        network=network,
        make=lambda other: layer_field(residual_layers(other)),  # type: ignore[arg-type]
        start=0.0,
        end=float(len(network.blocks)),
        starts=lambda count, seed: _features(source, count, seed),
        labels=lambda count, seed: source.rows("images", "labels", count, seed),
        readout=lambda h: network.head(network.readout(h)),
    )


@torch.no_grad()
def _features(source: _Source, count: int, seed: int) -> Tensor:
    images = to_float(source.rows("images", "images", count, seed))
    features: Tensor = source.model.network.stem(images)  # type: ignore[operator]
    return features


def _depth(source: _Source, time: float) -> TrainedField:
    network = source.model.network
    at = torch.tensor(time, dtype=torch.float64, device=source.device)

    def ask(other: nn.Module, inputs: Tensor) -> Tensor:
        dtype = next(other.parameters()).dtype
        logits: Tensor = other(at, inputs.to(dtype) if inputs.is_floating_point() else inputs)
        return logits

    depth, example = depth_of(network, ask), _inputs(source, at, 1, 0)
    return TrainedField(
        name=source.name,
        kind="depth",
        network=network,
        make=lambda other: depth.field(other, example),
        start=0.0,
        end=float(depth.length),
        starts=lambda count, seed: depth.start(network, _inputs(source, at, count, seed)).detach(),
    )


def _inputs(source: _Source, t: Tensor, count: int, seed: int) -> Tensor:
    """What the network is fed: data of the test split at t of its process."""
    model = source.model
    if model.modality == "images":
        data = to_float(source.rows("images", "images", count, seed))
        noise = sample_noise(seed, "corruption", range(count), data.shape[1:]).to(data)
        return model.process.mix(data, noise, model.process.schedule(t))  # type: ignore[no-any-return]
    if model.modality != "text":
        raise ValueError(f"{source.name} is a model of {model.modality}, for which no inputs are at hand; read it in t")
    tokens = source.rows("text", "tokens", count, seed)[:, : source.size("length")]
    if isinstance(model.objective, AutoregressiveObjective):
        return torch.cat([torch.full_like(tokens[:, :1], begin_token(model.network)), tokens[:, :-1]], dim=1)
    if isinstance(model.process, EmbeddingProcess):
        embedded: Tensor = model.network.embed(tokens).detach()  # type: ignore[operator]
        noise = sample_noise(seed, "corruption", range(count), embedded.shape[1:]).to(embedded)
        return model.process.gaussian.mix(embedded, noise, model.process.gaussian.schedule(t))
    draws = [generator(seed, "corruption", index, device=source.device) for index in range(count)]
    noisy = torch.cat([model.process.sample(row[None], t[None], draw) for row, draw in zip(tokens, draws, strict=True)])
    return model.process.view(t, noisy) if isinstance(model.process, AbstractTokenPath) else noisy


_Reader = Callable[[_Source], TrainedField]
_BY_PROCESS: Mapping[type, _Reader] = {
    GaussianProcess: _image_flow,
    AbstractTokenPath: _token_flow,
    EmbeddingProcess: _embedding_flow,
}
_BY_OBJECTIVE: Mapping[type, _Reader] = {ContinuousMaximumLikelihood: _density}
_BY_NETWORK: Mapping[type, _Reader] = {ODEClassifier: _classifier, ResidualClassifier: _residual_classifier}
