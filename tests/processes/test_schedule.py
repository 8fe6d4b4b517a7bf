"""Schedules: derivatives, inverses, ends."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.processes.schedule import (
    AbstractSchedule,
    EDMSchedule,
    InterpolantSchedule,
    LinearSchedule,
    TrigFlowSchedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)

SCHEDULES = [
    LinearSchedule(),
    VPLinearSchedule(),
    VPCosineSchedule(),
    VPCosineSchedule(max_log_ratio=10.0),
    VESchedule(),
    EDMSchedule(),
    TrigFlowSchedule(0.7),
    InterpolantSchedule(0.5),
    InterpolantSchedule(2.0),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


@every_schedule
def test_derivatives_are_those_of_alpha_and_sigma(schedule: AbstractSchedule) -> None:
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64, requires_grad=True)
    values = schedule(t)
    (dalpha,) = torch.autograd.grad((values.alpha + 0 * t).sum(), t, retain_graph=True)
    (dsigma,) = torch.autograd.grad(values.sigma.sum(), t)
    torch.testing.assert_close(values.dalpha, dalpha, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(values.dsigma, dsigma, rtol=1e-10, atol=1e-12)


@every_schedule
def test_inverse_log_ratio_undoes_log_ratio(schedule: AbstractSchedule) -> None:
    t = torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    lam = schedule.log_ratio(t)
    assert (lam.diff() < 0).all()
    torch.testing.assert_close(schedule.inverse_log_ratio(lam), t, rtol=1e-9, atol=1e-11)


@every_schedule
def test_float32_times_are_evaluated_in_float64(schedule: AbstractSchedule) -> None:
    assert all(value.dtype == torch.float64 for value in schedule(torch.tensor([0.3, 0.4])))
    assert schedule(torch.tensor(0.3)).alpha.shape == ()


@pytest.mark.parametrize("schedule", [LinearSchedule(), VPCosineSchedule(), TrigFlowSchedule(), InterpolantSchedule()])
def test_ends_are_exactly_data_and_exactly_noise(schedule: AbstractSchedule) -> None:
    ends = schedule(torch.tensor([0.0, 1.0]))
    assert ends.alpha.tolist() == [1.0, 0.0]
    assert ends.sigma[0] == 0.0
    assert schedule.inverse_log_ratio(math.inf) == 0.0


def test_vp_linear_ends_at_the_textbook_signal_and_preserves_variance() -> None:
    values = VPLinearSchedule()(torch.linspace(0, 1, 11, dtype=torch.float64))
    assert float(values.alpha[-1]) == pytest.approx(math.exp(-5.025), rel=1e-12)
    torch.testing.assert_close(values.alpha**2 + values.sigma**2, torch.ones(11, dtype=torch.float64))
    assert VPLinearSchedule().inverse_log_ratio(math.inf) == 0.0


def test_edm_times_are_the_published_grid() -> None:
    i = torch.arange(18, dtype=torch.float64)
    grid = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDMSchedule()(1 - i / 17).sigma, grid, rtol=1e-10, atol=0)


def test_the_interpolant_has_the_variance_of_its_two_noises() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for noise in (0.3, 1.0, 2.0):
        values = InterpolantSchedule(noise)(t)
        torch.testing.assert_close(values.sigma**2, t**2 + noise**2 * t * (1 - t))
        torch.testing.assert_close(values.alpha, 1 - t)
    torch.testing.assert_close(InterpolantSchedule(1.0)(t).sigma, t.sqrt())
    torch.testing.assert_close(InterpolantSchedule(1e-6)(t).sigma, LinearSchedule()(t).sigma, rtol=0, atol=1e-10)


def test_bounded_cosine_reaches_its_bounds() -> None:
    schedule = VPCosineSchedule(max_log_ratio=7.5)
    torch.testing.assert_close(
        schedule.log_ratio(torch.tensor([0.0, 1.0])), torch.tensor([7.5, -7.5], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: VPLinearSchedule(beta_min=0.0), "beta_min"),
        (lambda: VPLinearSchedule(beta_min=3.0, beta_max=2.0), "beta_max"),
        (lambda: VESchedule(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: EDMSchedule(rho=math.nan), "rho"),
        (lambda: InterpolantSchedule(0.0), "noise"),
        (lambda: TrigFlowSchedule(-1.0), "sigma_data"),
        (lambda: VPCosineSchedule(0.0), "max_log_ratio"),
    ],
)
def test_bad_parameters_are_named(build, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        build()


@every_schedule
def test_python_numbers_are_not_rounded_to_float32(schedule: AbstractSchedule) -> None:
    assert schedule.log_ratio(0.1) == schedule.log_ratio(torch.tensor(0.1, dtype=torch.float64))
