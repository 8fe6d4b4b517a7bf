"""Low-rank adapters as files of their own, in the format of `peft` with a card beside, and put on other models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import save
from torch import Tensor, nn

from isocline.app.artifacts import CONFIG, LoadedModel, load_config, load_tensors
from isocline.app.latent_space import FOLDER as AUTOENCODER
from isocline.datasets.storage import write_bytes, write_json, write_tensors
from isocline.networks.adapter import ADAPTER, Adapted
from isocline.tracking.provenance import digest

__all__ = ["FOLDER", "AdapterFile", "adapted_model", "load_adapter", "save_adapter", "state_digest", "with_adapter"]

FOLDER = "adapter"
"""Under every model whose network is adapted."""
_WEIGHTS, _PEFT, _CARD = "adapter_model.safetensors", "adapter_config.json", "card.yaml"
_PEFT_PREFIX = "base_model.model."
_KEYS = ("teacher", "base", "rank", "alpha", "layers")


@dataclass(frozen=True)
class AdapterFile:
    """An adapter read back.

    Attributes:
        teacher: name of the model that it was trained on.
        base: sha256 of that model's weights.
        rank: of its products.
        alpha: their scale times the rank.
        layers: the layers that it changes.
        process: what the output of the adapted network means, as configured.
        tensors: ``adapter.<layer>.lora_A.weight`` and ``adapter.<layer>.lora_B.weight``.
    """

    teacher: str
    base: str
    rank: int
    alpha: float
    layers: tuple[str, ...]
    process: Any
    tensors: dict[str, Tensor]


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of named tensors, the same whatever their order and memory format."""
    return hashlib.sha256(save({name: state[name].detach().cpu().contiguous() for name in sorted(state)})).hexdigest()


def save_adapter(directory: Path, network: nn.Module, teacher: str) -> None:
    """Write the adapter of a network to ``directory/adapter``; a network without one is passed over.

    The two files that `peft` reads (``PeftModel.from_pretrained(network, folder)``) and a card that says what the
    adapter was trained on.

    Args:
        directory: of the model.
        network: trained.
        teacher: name of the model that the frozen part comes from.
    """
    if not isinstance(network, Adapted):
        return
    folder, state = directory / FOLDER, network.adapter()
    tensors = {_PEFT_PREFIX + name.removeprefix(ADAPTER): tensor.cpu().clone() for name, tensor in state.items()}
    write_tensors(folder / _WEIGHTS, tensors)
    config = {
        "base_model_name_or_path": teacher,
        "lora_alpha": network.alpha,
        "peft_type": "LORA",
        "r": network.rank,
        "target_modules": sorted(network.layers),
    }
    write_json(folder / _PEFT, config)
    card = {
        "teacher": teacher,
        "base": state_digest(network.base()),
        "rank": network.rank,
        "alpha": network.alpha,
        "layers": list(network.layers),
    }
    write_bytes(folder / _CARD, OmegaConf.to_yaml(OmegaConf.create(card)).encode())


def load_adapter(directory: Path) -> AdapterFile:
    """Read the adapter of a model.

    Args:
        directory: of the model, ``data/models/<student>``.

    Raises:
        FileNotFoundError: if the model has no adapter.
        ValueError: if it is damaged.
    """
    folder = directory / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{directory} has no adapter; students whose network is isocline.networks.adapter.adapted have one"
        )
    card = load_config(folder / _CARD, _KEYS)
    tensors = {
        ADAPTER + name.removeprefix(_PEFT_PREFIX): tensor for name, tensor in load_tensors(folder / _WEIGHTS).items()
    }
    process = load_config(directory / CONFIG).get("process")
    layers = tuple(card["layers"])
    return AdapterFile(card["teacher"], card["base"], card["rank"], card["alpha"], layers, process, tensors)


def adapted_model(model: LoadedModel, directory: Path, student: Path) -> LoadedModel:
    """Put the adapter of a student on a model.

    Args:
        model: loaded from ``directory``; its network is changed in place.
        directory: of the model.
        student: directory of the student.

    Raises:
        FileNotFoundError: if the student has no adapter.
        ValueError: if it does not fit the model, or belongs to another latent space.
    """
    adapter = load_adapter(student)
    mine, other = (digest(folder / AUTOENCODER) for folder in (directory, student))
    if mine != other:
        raise ValueError(f"{model.name} and {student.name} are models of different latent spaces, or one of none")
    return with_adapter(model, adapter)


def with_adapter(model: LoadedModel, adapter: AdapterFile) -> LoadedModel:
    """Put an adapter on a model: its teacher, or another fine-tune of it.

    Args:
        model: loaded; its network is changed in place.
        adapter: as read.

    Raises:
        ValueError: if the model is of another process, has an adapter already, or lacks a layer of the right shape.
    """
    if isinstance(model.network, Adapted):
        raise ValueError(f"{model.name} has an adapter of its own; put the other one on its teacher, {model.teacher}")
    if model.config.get("process") != adapter.process:
        raise ValueError(
            f"the adapter of {adapter.teacher} is for another process than {model.name}'s: "
            f"{adapter.process} against {model.config.get('process')}"
        )
    cure = f"it fits {adapter.teacher} and its fine-tunes"
    modules = dict(model.network.named_modules())
    if missing := [layer for layer in adapter.layers if layer not in modules]:
        raise ValueError(f"the network of {model.name} has no layer {missing[0]}, which the adapter changes; {cure}")
    network = Adapted(model.network, adapter.rank, adapter.alpha, adapter.layers)
    own = network.adapter()
    if own.keys() != adapter.tensors.keys():
        name = min(own.keys() ^ adapter.tensors.keys())
        raise ValueError(f"the adapter's tensors are not those of its card ({name}); run `isocline repro` again")
    for name, tensor in adapter.tensors.items():
        if tensor.shape != own[name].shape:
            found, wanted = tuple(tensor.shape), tuple(own[name].shape)
            raise ValueError(f"{name} is {found}, for {model.name} it would have to be {wanted}; {cure}")
    network.load_state_dict(adapter.tensors, strict=False)
    return replace(model, network=network.eval().requires_grad_(False))
