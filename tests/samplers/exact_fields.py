"""Exact fields of known laws under every kind of schedule, which the tests of samplers share."""

from __future__ import annotations

import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, NoisePrediction, VelocityPrediction, VPrediction
from isocline.processes.schedule import (
    EDMSchedule,
    LinearSchedule,
    TrigFlowSchedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)

D = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
POINT = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.zeros(1, 2))
PROCESSES = {
    "vp": GaussianProcess(VPLinearSchedule(), NoisePrediction()),
    "cosine": GaussianProcess(VPCosineSchedule(), VPrediction()),
    "linear": GaussianProcess(LinearSchedule(), VelocityPrediction()),
    "trigflow": GaussianProcess(TrigFlowSchedule(), VelocityPrediction()),
    "edm": GaussianProcess(EDMSchedule(), DataPrediction()),
    "ve": GaussianProcess(VESchedule(), NoisePrediction()),
}


def exact(process: GaussianProcess, mixture: GaussianMixture = MIXTURE) -> Denoiser:
    return Denoiser(mixture.network(process), process)


def noise(n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
