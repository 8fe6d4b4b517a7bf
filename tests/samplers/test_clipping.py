"""Clipping: the identity inside the range, x = α x_0 + σ ε kept outside, errors at small α bounded."""

from __future__ import annotations

import pytest
import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.clipping import ClippedDenoiser
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import Euler, Heun

D = torch.float64
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction())
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
NARROW = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[1e-4, 1e-4]]))


def states(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=D)


@pytest.mark.parametrize("process", [VP, LINEAR], ids=["vp", "linear"])
def test_predictions_inside_the_range_are_left_alone(process: GaussianProcess) -> None:
    plain, x = Denoiser(NARROW.network(process), process), states()
    t = torch.linspace(0.2, 1, 8, dtype=D)
    for name in ("data", "noise", "velocity"):
        torch.testing.assert_close(getattr(ClippedDenoiser(plain), name)(t, x), getattr(plain, name)(t, x))


def test_data_and_noise_still_make_the_state() -> None:
    plain, x, t = Denoiser(NARROW.network(VP), VP), states(), torch.full((8,), 0.7, dtype=D)
    clipped = ClippedDenoiser(plain, -0.1, 0.1)
    values = VP.schedule(t)
    data, noise = clipped.data(t, x), clipped.noise(t, x)
    assert data.abs().max() <= 0.1
    assert plain.data(t, x).abs().max() > 0.1
    torch.testing.assert_close(values.alpha[:, None] * data + values.sigma[:, None] * noise, x)


def test_the_end_of_the_flow_is_left_alone() -> None:
    clipped = ClippedDenoiser(Denoiser(NARROW.network(LINEAR), LINEAR), -0.1, 0.1)
    x = states()
    torch.testing.assert_close(clipped.data(torch.tensor(0.0, dtype=D), x), x)
    sampler = ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())
    assert torch.isfinite(sampler.sample(clipped, x, 8).final).all()


def test_an_error_of_the_noise_prediction_is_not_magnified_where_alpha_is_small() -> None:
    exact = NARROW.network(VP)

    def wrong(t, x, cond=None):  # type: ignore[no-untyped-def]
        return exact(t, x, cond) + 0.05

    def one_step(wrap):  # type: ignore[no-untyped-def]
        sampler = ContinuousSampler(Euler(), UniformTimeGrid(), LinearPathVariable(), wrap)
        return sampler.sample(Denoiser(wrong, VP), states(), 1).final

    assert one_step(None).abs().min() > 3
    assert one_step(ClippedDenoiser).abs().max() <= 1 + 1e-9


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        ClippedDenoiser(Denoiser(NARROW.network(VP), VP), 1.0, -1.0)
