"""Trained models as denoisers, for configurations that name a further model (autoguidance)."""

from __future__ import annotations

from pathlib import Path

import torch

from isocline.app.artifacts import load_model
from isocline.processes.denoiser import Denoiser

__all__ = ["load_denoiser"]


def load_denoiser(directory: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """Read a model artefact as network under process.

    Raises:
        FileNotFoundError: if the artefact is missing.
        ValueError: if it is damaged.
    """
    model = load_model(Path(directory), device=device)
    return Denoiser(model.network, model.process)
