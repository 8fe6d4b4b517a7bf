"""What the stages that make plug-ins of a trained model share: the model, and ends of its flow from known noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.app.artifacts import LoadedModel, build, device_of, load_model
from isocline.datasets.storage import write_json
from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.randomness import sample_noise
from isocline.samplers.grid import GivenGrid

__all__ = ["FlowEnds", "MadeGrid", "SamplerGrids", "flow_ends", "read_grids", "wrapped", "write_grids"]

Wrap = Callable[[AbstractDenoiser], AbstractDenoiser]


class FlowEnds(NamedTuple):
    """A trained model and pairs of its flow.

    Attributes:
        model: as loaded.
        denoiser: its network and process, wrapped as configured for the model.
        noise: unit-variance noise ``(N, C, H, W)``.
        ends: where the accurate flow leads from it, same shape.
        labels: class labels ``(N,)``, or None.
    """

    model: LoadedModel
    denoiser: AbstractDenoiser
    noise: Tensor
    ends: Tensor
    labels: Tensor | None

    def pairs(self) -> dict[str, Tensor]:
        """Training data by role, on the CPU: ends ``x0``, noise ``x1`` and labels ``cond`` if there are any."""
        # A tensor made in inference mode could not be trained on.
        tensors = {"x0": self.ends.clone(), "x1": self.noise}
        if self.labels is not None:
            tensors["cond"] = self.labels
        return {role: part.cpu() for role, part in tensors.items()}


def flow_ends(name: str, section: Mapping[str, Any], accelerator: str, seed: int, batch_size: int = 64) -> FlowEnds:
    """Integrate a model's flow accurately.

    Args:
        name: of the model.
        section: ``samples``, ``reference`` (a sampler), ``reference_nfe`` and ``wrap`` by model.
        accelerator: see `device_of`.
        seed: of the noise; sample i depends on (seed, i) alone.
        batch_size: samples at once.
    """
    device = device_of(accelerator)
    model = load_model(Path("data/models") / name, section["reference"], device)
    denoiser = wrapped(Denoiser(model.network, model.process), build(section["wrap"]), name)
    network = model.config["network"]
    shape, classes = (network["channels"], network["size"], network["size"]), network.get("classes", 0)
    noise = sample_noise(seed, "flow", range(section["samples"]), shape).to(device)
    labels = torch.arange(len(noise), device=device) % classes if classes else None
    parts = []
    with torch.inference_mode():
        for first in range(0, len(noise), batch_size):
            rows = slice(first, first + batch_size)
            cond = None if labels is None else labels[rows]
            solution = model.sampler.sample(denoiser, noise[rows], section["reference_nfe"], cond=cond)
            parts.append(solution.raise_on_failure().final)
    return FlowEnds(model, denoiser, noise, torch.cat(parts), labels)


def wrapped(denoiser: AbstractDenoiser, wraps: Mapping[str, Wrap], name: str) -> AbstractDenoiser:
    """Put around a model's denoiser what is configured for it, if anything."""
    return wraps[name](denoiser) if name in wraps else denoiser


class MadeGrid(NamedTuple):
    """A grid that was optimised for a sampler and a budget.

    Attributes:
        times: at which steps begin.
        error: distance of the sampler's ends from the flow's on it.
    """

    times: list[float]
    error: float


class SamplerGrids(NamedTuple):
    """The optimised grids of one sampler.

    Attributes:
        sampler: its configuration.
        budgets: grids by budget (NFE).
    """

    sampler: Mapping[str, Any]
    budgets: Mapping[int, MadeGrid]

    def grid(self) -> GivenGrid:
        """All of them as one, which finds each by its number of steps.

        Raises:
            ValueError: if two budgets make as many steps.
        """
        times = {len(made.times): made.times for made in self.budgets.values()}
        if len(times) < len(self.budgets):
            steps = ", ".join(f"{nfe} makes {len(made.times)}" for nfe, made in self.budgets.items())
            raise ValueError(f"plugins.grid.nfe: two budgets make as many steps ({steps}); keep one of them")
        return GivenGrid(times)


def write_grids(name: str, grids: Mapping[str, SamplerGrids]) -> None:
    """Write what `read_grids` reads, by sampler."""
    document = {
        sampler: {"sampler": made.sampler, "budgets": {str(nfe): grid._asdict() for nfe, grid in made.budgets.items()}}
        for sampler, made in grids.items()
    }
    write_json(_grid_file(name), document)


def read_grids(name: str) -> dict[str, SamplerGrids]:
    """Read the optimised grids of a model, by sampler.

    Raises:
        FileNotFoundError: if the stage `optimise-grid` has not run.
    """
    path = _grid_file(name)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `dvc repro optimise-grid@{name}` to make it")
    return {
        sampler: SamplerGrids(made["sampler"], {int(nfe): MadeGrid(**grid) for nfe, grid in made["budgets"].items()})
        for sampler, made in json.loads(path.read_text()).items()
    }


def _grid_file(name: str) -> Path:
    return Path("data/grids") / name / "grid.json"
