"""Samplers of images for models of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isocline.app.latent_space import FOLDER, load_autoencoder
from isocline.samplers.latent import LatentSampler

__all__ = ["decoded"]


def decoded(sampler: Any, directory: Path, device: str | torch.device = "cpu") -> Any:
    """Return a sampler of images for a model: its own, with the decoder behind it if the model is one of latents."""
    if not (directory / FOLDER).is_dir():
        return sampler
    return LatentSampler(sampler, load_autoencoder(directory / FOLDER, device).decode)
