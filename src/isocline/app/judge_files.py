"""Judges on disk: safetensors beside the configuration that rebuilds the network. No pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors.torch import save
from torch import Tensor, nn

from isocline.datasets.storage import write_bytes, write_tensors

__all__ = ["CONFIG", "NGRAM", "WEIGHTS", "save_judge"]

WEIGHTS, CONFIG, NGRAM = "weights.safetensors", "model.yaml", "ngram.safetensors"


def save_judge(
    directory: Path, network: nn.Module, config: Mapping[str, Any], ngram: Mapping[str, Tensor] | None = None
) -> None:
    """Write weights, the network's configuration and, for text, the n-gram model's state."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_bytes(directory / WEIGHTS, save(state))
    if ngram is not None:
        write_tensors(directory / NGRAM, dict(ngram))
    write_bytes(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.create({"network": dict(config)})).encode())
