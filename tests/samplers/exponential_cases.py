"""The exact fields and the methods that the tests of exponential samplers share."""

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
from isocline.samplers.exponential import AbstractExponentialMethod
from isocline.samplers.log_ratio import B1, DataForm, NoiseForm
from isocline.samplers.multistep import ExponentialMultistep
from isocline.samplers.singlestep import ExponentialSinglestep, dpm_solver, dpm_solver_plus_plus

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
METHODS: dict[str, AbstractExponentialMethod] = {
    "dpm_solver_1": dpm_solver(1),
    "dpm_solver_2": dpm_solver(2),
    "dpm_solver_3": dpm_solver(3),
    "dpmpp_2s": dpm_solver_plus_plus(2),
    "dpmpp_3s": dpm_solver_plus_plus(3),
    "dpmpp_2m": ExponentialMultistep(2, DataForm()),
    "dpmpp_2m_exact": ExponentialMultistep(2, DataForm(None)),
    "dpmpp_3m": ExponentialMultistep(3, DataForm()),
    "unipc_2_b1": ExponentialMultistep(2, DataForm(B1()), corrector=True),
    "unipc_3_b2": ExponentialMultistep(3, DataForm(), corrector=True),
    "unipc_3_noise": ExponentialMultistep(3, NoiseForm(), corrector=True),
}


def exact(process: GaussianProcess, mixture: GaussianMixture = MIXTURE) -> Denoiser:
    return Denoiser(mixture.network(process), process)


def noise(n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def budget(method: AbstractExponentialMethod, steps: int) -> int:
    """Evaluations for ``steps`` steps, of full order where a step's order is its cost; the last one costs one."""
    return (steps - 1) * method.order + 1 if isinstance(method, ExponentialSinglestep) else steps
