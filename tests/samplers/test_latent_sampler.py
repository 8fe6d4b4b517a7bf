"""A latent sampler: the inner sampler's states, decoded; nothing else changes."""

from __future__ import annotations

import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.latent import LatentSampler
from isocline.samplers.variable import TimeVariable
from isocline.solvers.explicit import Euler, Heun

D = torch.float64
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
LATENTS = GaussianMixture(torch.ones(2), torch.tensor([[1.0, 0.5], [-1.0, 0.0]]), torch.full((2, 2), 0.1))
TO_DATA = torch.tensor([[2.0, 0.0, 1.0], [0.0, -1.0, 1.0]], dtype=D)


def decode(latents: torch.Tensor) -> torch.Tensor:
    return latents @ TO_DATA + 3.0


def test_states_are_decoded_and_evaluations_are_the_inner_samplers() -> None:
    inner, denoiser = (
        ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable()),
        Denoiser(LATENTS.network(LINEAR), LINEAR),
    )
    x1 = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    for save in (False, True):
        found = LatentSampler(inner, decode).sample(denoiser, x1, 5, save_steps=save)
        wanted = inner.sample(denoiser, x1, 5, save_steps=save)
        torch.testing.assert_close(found.ys, decode(wanted.ys))
        assert torch.equal(found.ts, wanted.ts)
        assert torch.equal(found.stats.nfe, wanted.stats.nfe)


def test_samples_have_the_law_that_the_decoder_makes_of_the_latents() -> None:
    sampler = LatentSampler(ContinuousSampler(Heun(), UniformTimeGrid(), TimeVariable()), decode)
    x1 = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=D)
    final = sampler.on(UniformTimeGrid()).sample(Denoiser(LATENTS.network(LINEAR), LINEAR), x1, 160).final
    mean, covariance = decode(LATENTS.mean), TO_DATA.T @ LATENTS.covariance @ TO_DATA
    assert ((final.mean(0) - mean).abs() < 4 * (covariance.diagonal() / 4000).sqrt()).all()
    torch.testing.assert_close(final.T.cov(), covariance, rtol=0.1, atol=0.1)
