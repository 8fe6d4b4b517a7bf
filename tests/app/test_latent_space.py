"""A model of latents carries its autoencoder: it is copied, read back, and samples come out as images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isocline.app.artifacts import save_model
from isocline.app.decoding import decoded
from isocline.app.latent_space import FOLDER, carry_autoencoder, load_autoencoder
from isocline.networks.autoencoder import Autoencoder
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.samplers.consistency import ConsistencySampler

NETWORK = {"_target_": "isocline.networks.autoencoder.Autoencoder", "channels": 1, "size": 8, "width": 8}
OBJECTIVE = {"_target_": "isocline.objectives.reconstruction.Reconstruction"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = {"name": "latents", "modality": "images", "network": NETWORK, "objective": OBJECTIVE}
    save_model(tmp_path / "latents" / FOLDER, Autoencoder(1, 8, width=8), config, [{"step": 1}])
    return tmp_path / "latents"


def test_samples_of_a_model_with_an_autoencoder_are_its_decoded_latents(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    carry_autoencoder(data, model)
    latent = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    denoiser = Denoiser(lambda t, x, cond: latent, GaussianProcess(LinearSchedule(), DataPrediction()))  # type: ignore[arg-type]
    found = decoded(ConsistencySampler(), model).sample(denoiser, torch.zeros(3, 4, 2, 2), 1).final
    torch.testing.assert_close(found, load_autoencoder(data / FOLDER).decode(latent))
    assert found.shape == (3, 1, 8, 8)


def test_a_model_of_images_keeps_its_sampler_and_an_old_autoencoder_is_not_left_behind(
    data: Path, tmp_path: Path
) -> None:
    model, sampler = tmp_path / "model", ConsistencySampler()
    carry_autoencoder(data, model)
    carry_autoencoder(tmp_path / "images", model)
    assert decoded(sampler, model) is sampler


def test_weights_that_do_not_fit_are_named(data: Path) -> None:
    path = data / FOLDER / "model.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 16"))
    with pytest.raises(ValueError, match=r"weights.safetensors does not fit"):
        load_autoencoder(data / FOLDER)
