"""Trained models on disk: safetensors weights beside the configuration that rebuilds the objects. No pickles."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from isocline.datasets.storage import write_bytes, write_tensors

__all__ = [
    "LoadedModel",
    "build",
    "class_labels",
    "device_of",
    "learned_schedule",
    "load_config",
    "load_model",
    "load_tensors",
    "restore",
    "save_model",
    "write_history",
]

WEIGHTS, CONFIG, HISTORY, AVERAGES = "weights.safetensors", "model.yaml", "history.csv", "averages.safetensors"
SCHEDULE = "schedule.safetensors"
KEYS = ("name", "modality", "network", "objective")


@dataclass(frozen=True)
class LoadedModel:
    """A model read back from its artefact.

    Attributes:
        name: the model's name.
        modality: ``images`` or ``text``.
        network: the averaged network in evaluation mode.
        process: what the network's output means: a Gaussian process or a kernel; None for autoregressive models.
        objective: the objective that the likelihood is read from.
        sampler: the sampler, or None when no sampler configuration was given.
        teacher: the teacher's name for students.
        config: the plain configuration as stored.
    """

    name: str
    modality: str
    network: nn.Module
    process: Any
    objective: Any
    sampler: Any
    teacher: str | None
    config: dict[str, Any]


def build(section: Mapping[str, Any] | None, **kwargs: Any) -> Any:
    """Instantiate a configuration section by its ``_target_``; None stays None."""
    return None if section is None else instantiate(dict(section), **kwargs, _convert_="all")


def device_of(accelerator: str) -> torch.device:
    """Return the device that the key ``accelerator`` means outside training: ``auto`` takes a GPU where there is one.

    Raises:
        ValueError: if the machine lacks what the key demands.
    """
    if accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available()):
        return torch.device("cpu")
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or accelerator not in ("auto", "gpu", found.type):
        raise ValueError(f"accelerator = {accelerator}: this machine has {found.type if found else 'none'}; use auto")
    return found


def build_parts(config: Mapping[str, Any]) -> tuple[nn.Module, Any, Any]:
    """Build network, process and likelihood objective from a stored configuration."""
    process = build(config.get("process"))
    given = {} if process is None else {"process": process}
    return build(config["network"]), process, build(config["objective"], **given)


def learned_schedule(process: Any) -> nn.Module | None:
    """The schedule of a process if it has parameters, so that a model is not whole without it."""
    schedule = getattr(process, "schedule", None)
    return schedule if isinstance(schedule, nn.Module) else None


def save_model(
    directory: Path,
    network: nn.Module,
    config: Mapping[str, Any],
    history: Iterable[Mapping[str, float]],
    averages: Mapping[str, Tensor] | None = None,
    process: Any = None,
) -> None:
    """Write weights, training curve and configuration to ``directory``.

    The configuration, without which no model is read, goes first when it is old and comes last when it is new.

    Args:
        directory: created if absent.
        network: whose state is saved; tied tensors are stored once each.
        config: plain containers; see `LoadedModel`.
        history: rows of the training curve.
        averages: further averages of the weights, if any were kept.
        process: whose schedule is saved if it is learned.
    """
    for name in (CONFIG, AVERAGES, SCHEDULE):
        (directory / name).unlink(missing_ok=True)
    write_tensors(directory / WEIGHTS, _state(network))
    write_history(directory / HISTORY, history)
    if schedule := learned_schedule(process):
        write_tensors(directory / SCHEDULE, _state(schedule))
    if averages:
        write_tensors(directory / AVERAGES, averages)
    write_bytes(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode())


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def write_history(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write the training curve as CSV, atomically (step first, then the learning rate and the loss terms)."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.9g}" for k, v in row.items()})
    write_bytes(path, file.getvalue().encode())


def load_config(path: Path, keys: Iterable[str] = KEYS) -> dict[str, Any]:
    """Read ``model.yaml`` as plain containers.

    Args:
        path: of the file.
        keys: what it must have.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not YAML, not a mapping, or lacks a key.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `dvc repro` to make it, or `dvc pull`")
    cure = f"delete {path.parent} and run `isocline repro` again"
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        if isinstance(config, dict):  # its numbers are read as OmegaConf writes them, not as PyYAML would
            config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as YAML ({' '.join(str(error).split())[:200]}); {cure}") from error
    if not isinstance(config, dict):
        found = type(config).__name__ if text.strip() else "nothing"
        raise ValueError(f"{path} holds {found}, not a mapping; {cure}")
    if missing := [key for key in keys if key not in config]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; {cure}")
    return {str(key): value for key, value in config.items()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `dvc repro` to make it, or `dvc pull` to fetch it")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run `dvc repro`") from error


def class_labels(model: LoadedModel, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The classes that a split's rows have, ``(N,)``, for a model that takes them; None for one that does not.

    Raises:
        ValueError: if it takes classes and the split has none.
    """
    if not model.config["network"].get("classes"):
        return None
    if "labels" not in tensors:
        raise ValueError(
            f"{model.name} is class-conditional and the data have no labels; take data that have "
            "(isocline compose data/text=kjv_groups), or train it without classes"
        )
    return tensors["labels"]


def restore(module: nn.Module, path: Path, device: str | torch.device) -> None:
    """Read a module's weights; it is in evaluation mode then.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if they are damaged or those of another module.
    """
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        cure = f"delete {path.parent} and run `isocline repro` again, or `dvc checkout` for the pair that was tracked"
        raise ValueError(f"{path} does not fit {CONFIG} beside it ({reason}); {cure}") from error
    module.to(device).eval().requires_grad_(False)


def load_model(
    directory: Path, sampler: Mapping[str, Any] | None = None, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Read a model artefact.

    Args:
        directory: what `save_model` wrote.
        sampler: configuration of the sampler, if one is wanted.
        device: where the network goes.

    Raises:
        FileNotFoundError: if the artefact is missing.
        ValueError: if it is damaged or its weights do not fit its configuration.
    """
    config = load_config(directory / CONFIG)
    network, process, objective = build_parts(copy.deepcopy(config))
    restore(network, directory / WEIGHTS, device)
    if schedule := learned_schedule(process):
        restore(schedule, directory / SCHEDULE, device)
    return LoadedModel(
        name=config["name"],
        modality=config["modality"],
        network=network,
        process=process,
        objective=objective,
        sampler=build(sampler),
        teacher=config.get("teacher"),
        config=config,
    )
