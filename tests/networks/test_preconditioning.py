"""Preconditioning: what the raw network sees, and the data prediction that comes out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocline.networks.preconditioning import Preconditioned, preconditioned
from isocline.networks.unet import UNet
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import PreconditionedPrediction
from isocline.processes.schedule import EDMSchedule, VESchedule


class Recorder(nn.Module):
    """Keeps what it is fed, and answers a fixed output."""

    def forward(self, t, x, cond=None):
        self.seen = (t, x, cond)
        return torch.full_like(x, 0.25)


@pytest.mark.parametrize("schedule", [EDMSchedule(), VESchedule()])
def test_the_network_sees_unit_variance_and_a_quarter_of_the_log_noise_level(schedule) -> None:
    raw = Recorder()
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2000, 4, 3, generator=generator).unbind(1)[i] for i in range(2))
    for t in (0.0, 0.5, 1.0):
        values = schedule(t)
        x = 0.6 * x0 + float(values.sigma) * noise
        Preconditioned(raw, schedule, 0.6)(torch.tensor(t), x, "label")
        time, seen, cond = raw.seen
        assert (time.dtype, seen.dtype, cond) == (torch.float64, torch.float32, "label")
        assert float(time) == pytest.approx(0.25 * float(values.sigma.log()), abs=1e-12)
        assert float(seen.std()) == pytest.approx(1.0, abs=0.03)


def test_the_denoiser_is_edm_s_formula() -> None:
    schedule, raw = EDMSchedule(), Recorder()
    process = GaussianProcess(schedule, PreconditionedPrediction(0.6))
    denoiser = Denoiser(Preconditioned(raw, schedule, 0.6), process)
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.0, 0.4, 1.0])
    s = schedule(t).sigma[:, None]
    expected = 0.36 / (s**2 + 0.36) * x + s * 0.6 / (s**2 + 0.36).sqrt() * 0.25
    torch.testing.assert_close(denoiser.data(t, x), expected, rtol=1e-12, atol=1e-12)


def test_noise_levels_survive_reduced_precision() -> None:
    network = preconditioned(UNet, EDMSchedule(), 0.6, channels=1, size=8, width=8, multipliers=(1, 2))
    nn.init.normal_(network.network.last[2].weight, std=0.1)
    x, t = 80 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.full((4,), 1.0)
    full = network(t, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(t, x)
    assert torch.isfinite(half).all()
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.05)


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_data=0"):
        Preconditioned(Recorder(), EDMSchedule(), 0.0)
