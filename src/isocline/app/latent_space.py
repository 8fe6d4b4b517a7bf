"""Autoencoders on disk. A model of latents carries the one that made them, so that it can be used by itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from isocline.app.artifacts import CONFIG, WEIGHTS, build, load_config, restore
from isocline.networks.autoencoder import Autoencoder

__all__ = ["FOLDER", "carry_autoencoder", "load_autoencoder"]

FOLDER = "autoencoder"
"""Under ``data/latents`` and under every model of latents."""


def load_autoencoder(directory: Path, device: str | torch.device = "cpu") -> Autoencoder:
    """Read an autoencoder, in evaluation mode.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged.
    """
    network: Autoencoder = build(load_config(directory / CONFIG)["network"])
    restore(network, directory / WEIGHTS, device)
    return network


def carry_autoencoder(source: Path, target: Path) -> None:
    """Copy the autoencoder of data or of a teacher to a model; where there is none, the model has none either."""
    shutil.rmtree(target / FOLDER, ignore_errors=True)
    if (source / FOLDER).is_dir():
        shutil.copytree(source / FOLDER, target / FOLDER)
