"""Agreement with the schedulers of `diffusers` of the same name, on the same exact model and the same noise levels.

The levels are handed over, not rebuilt. Known faults of the peer that are kept out of the comparison, ours being held
against the closed form instead (`test_noise_samplers.py`: a point mass is reached exactly): its DEIS repeats the last
σ on Karras and flow grids, so that the last step does nothing and noise is left; its time steps are integers there,
which mismatch σ; its DDIM clips samples unless told not to; its iPNDM predicts data 0 from α = 0.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.samplers.exact_fields import D, exact, noise
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import EDMSchedule, VPLinearSchedule
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.edm_heun import EDMHeunSampler
from isocline.samplers.extrapolation import EqualSteps, PolynomialInLogRatio, PolynomialInRatio
from isocline.samplers.grid import GivenGrid, PowerGrid
from isocline.samplers.noise_multistep import NoiseMultistepSampler
from isocline.samplers.pndm import PNDMSampler
from isocline.samplers.variable import NoiseRatioVariable
from isocline.solvers.explicit import Euler

diffusers = pytest.importorskip("diffusers")

VP = GaussianProcess(VPLinearSchedule(), NoisePrediction())
EDM = GaussianProcess(EDMSchedule(0.02, 20.0), NoisePrediction())
STEPS = 20
# The peer's integers 999, 949, …, 49 stand for these times; its α² are overwritten with ours.
TRAINED = torch.arange(1, 1001, dtype=D) / 1000
TIMES = TRAINED.flip(0)[:: 1000 // STEPS]
GRID = GivenGrid({STEPS: TIMES.tolist()})


def vp_peer(kind: type, **options: Any) -> Any:
    scheduler = kind(num_train_timesteps=1000, timestep_spacing="trailing", **options)
    scheduler.alphas_cumprod = VP.schedule(TRAINED).alpha.square()
    scheduler.set_timesteps(STEPS)
    return scheduler


def run_on_vp(scheduler: Any, **options: Any) -> Tensor:
    x, denoiser = VP.prior(noise(8)), exact(VP)
    for step in scheduler.timesteps:
        x = scheduler.step(denoiser.noise(TRAINED[step], x), int(step), x, **options).prev_sample
    return x


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta: float) -> None:
    scheduler = vp_peer(diffusers.DDIMScheduler, clip_sample=False, set_alpha_to_one=True)
    draws = torch.Generator().manual_seed(3)
    x, denoiser = VP.prior(noise(8)), exact(VP)
    for step in scheduler.timesteps:
        fresh = torch.randn(x.shape, generator=draws, dtype=D)
        predicted = denoiser.noise(TRAINED[step], x)
        x = scheduler.step(predicted, int(step), x, eta=eta, variance_noise=fresh).prev_sample
    ours = DDIMSampler(GRID, eta).sample(exact(VP), noise(8), STEPS, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.final, x, rtol=1e-5, atol=1e-5)


def test_pndm() -> None:
    scheduler = vp_peer(diffusers.PNDMScheduler, set_alpha_to_one=True)
    ours = PNDMSampler(GRID).sample(exact(VP), noise(8), STEPS + 9)
    assert int(ours.stats.nfe[0]) == len(scheduler.timesteps)
    # Tighter than elsewhere: where the warm-up lies the noise hardly changes, so that its weights hardly show.
    torch.testing.assert_close(ours.final, run_on_vp(scheduler), rtol=1e-10, atol=1e-10)


def test_ipndm() -> None:
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(STEPS)
    values = VP.schedule(torch.cat([TIMES, torch.zeros(1, dtype=D)]))
    scheduler.betas, scheduler.alphas, scheduler.timesteps = values.sigma, values.alpha, TIMES
    x, denoiser = VP.prior(noise(8)), exact(VP)
    for t, alpha, sigma in zip(TIMES, values.alpha, values.sigma, strict=False):
        predicted = denoiser.noise(t, x)
        v = (predicted - sigma * x) / alpha
        x = scheduler.step(v, t, x).prev_sample
    ours = NoiseMultistepSampler(4, EqualSteps(), GRID).sample(exact(VP), noise(8), STEPS).final
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_which_is_polynomial_in_the_log_ratio_there(order: int) -> None:
    scheduler = vp_peer(diffusers.DEISMultistepScheduler, solver_order=order, lower_order_final=False)
    values = VP.schedule(TIMES)
    # The peer stops at a σ above 0: its last level is our last departure, compared before our last step.
    scheduler.sigmas, scheduler.timesteps = values.sigma / values.alpha, torch.arange(STEPS, 1, -1)
    x, denoiser = VP.prior(noise(8)), exact(VP)
    for index, step in enumerate(scheduler.timesteps):
        x = scheduler.step(denoiser.noise(TIMES[index], x), int(step), x).prev_sample
    sampler = NoiseMultistepSampler(order, PolynomialInLogRatio(), GRID)
    ours = sampler.sample(exact(VP), noise(8), STEPS, save_steps=True)
    torch.testing.assert_close(ours.ys[-2], x, rtol=1e-5, atol=1e-5)


def levels() -> tuple[Tensor, AbstractSampler]:
    """Noise levels of EDM's grid, with 0 at the end, and times for them."""
    s = PowerGrid(min_ratio=0.02)(EDM, NoiseRatioVariable(), STEPS)
    return s, GivenGrid({STEPS: NoiseRatioVariable().time(EDM, s[:-1]).tolist()})


def edm_peer(kind: type, sigmas: Tensor, **options: Any) -> Any:
    scheduler = kind(**options)
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas, scheduler.timesteps = sigmas, torch.arange(len(sigmas) - 1, 0, -1, dtype=D)
    scheduler.is_scale_input_called = True
    return scheduler


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("EulerDiscreteScheduler", ContinuousSampler(Euler(), PowerGrid(), NoiseRatioVariable())),
        ("EulerDiscreteScheduler", DDIMSampler(PowerGrid())),
        ("LMSDiscreteScheduler", NoiseMultistepSampler(4, PolynomialInRatio(), PowerGrid())),
    ],
)
def test_euler_and_lms(name: str, sampler: AbstractSampler) -> None:
    sigmas, grid = levels()
    scheduler = edm_peer(getattr(diffusers, name), sigmas)
    x, denoiser = EDM.prior(noise(8)), exact(EDM)
    for t, step in zip(grid.times[STEPS], scheduler.timesteps, strict=True):
        x = scheduler.step(denoiser.noise(t, x), step, x).prev_sample
    ours = sampler.on(grid).sample(exact(EDM), noise(8), STEPS).final
    torch.testing.assert_close(ours, x.double(), rtol=1e-5, atol=1e-5)


def test_edm_euler() -> None:
    sigmas, grid = levels()
    scheduler = edm_peer(diffusers.EDMEulerScheduler, sigmas)
    data, x, denoiser = 0.5**2, EDM.prior(noise(8)), exact(EDM)
    for t, sigma, step in zip(grid.times[STEPS], sigmas, scheduler.timesteps, strict=False):
        skip, out = data / (sigma**2 + data), sigma * data**0.5 / (sigma**2 + data).sqrt()
        x = scheduler.step((denoiser.data(t, x) - skip * x) / out, step, x).prev_sample
    ours = DDIMSampler(grid).sample(exact(EDM), noise(8), STEPS).final
    torch.testing.assert_close(ours, x.double(), rtol=1e-5, atol=1e-5)


def test_heun() -> None:
    sigmas, grid = levels()
    # The peer keeps every level but the ends twice, one for each evaluation.
    doubled = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler = edm_peer(diffusers.HeunDiscreteScheduler, doubled)
    x, denoiser = EDM.prior(noise(8)), exact(EDM)
    for sigma, step in zip(doubled, scheduler.timesteps, strict=False):
        x = scheduler.step(denoiser.noise(NoiseRatioVariable().time(EDM, sigma), x), step, x).prev_sample
    ours = EDMHeunSampler(grid).sample(exact(EDM), noise(8), 2 * STEPS - 1)
    assert int(ours.stats.nfe[0]) == len(scheduler.timesteps)
    torch.testing.assert_close(ours.final, x.double(), rtol=1e-5, atol=1e-5)


def test_the_peers_deis_still_repeats_its_last_level_on_karras_grids_and_ours_reaches_data() -> None:
    scheduler = diffusers.DEISMultistepScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2] > 0
    positions = PowerGrid()(VP, LinearPathVariable(), STEPS)
    assert float(positions[-1]) == 0
    assert bool((positions.diff() < 0).all())
