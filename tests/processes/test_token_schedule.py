"""Survival schedules: ends, derivatives, inverses."""

import pytest
import torch

from isocline.processes.learned_schedule import MonotoneSurvival, PolynomialTokenSurvival
from isocline.processes.token_schedule import (
    CosineSurvival,
    GeometricSurvival,
    LinearSurvival,
    PolynomialSurvival,
)


def learned():
    """A schedule with parameters far from their start."""
    schedule = MonotoneSurvival(5)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return schedule.requires_grad_(False)


SCHEDULES = [LinearSurvival(), PolynomialSurvival(2.0), CosineSurvival(), GeometricSurvival(), learned()]
schedules = pytest.mark.parametrize("schedule", SCHEDULES)


@schedules
def test_survival_is_exactly_one_at_data_and_exactly_zero_at_noise(schedule):
    ends = schedule.a(torch.tensor([0.0, 1.0]))
    assert ends.dtype == torch.float64
    assert ends.tolist() == [1.0, 0.0]


@schedules
def test_the_derivative_is_the_slope_of_the_survival(schedule):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    slope = (schedule.a(t + 1e-6) - schedule.a(t - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.da(t), slope, rtol=1e-6, atol=1e-8)
    assert (schedule.da(t) < 0).all()


@schedules
def test_the_inverse_undoes_the_survival(schedule):
    t = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    torch.testing.assert_close(schedule.a(schedule.inverse(schedule.a(t))), schedule.a(t), rtol=1e-9, atol=1e-12)
    inner = t[4:-4]
    torch.testing.assert_close(schedule.inverse(schedule.a(inner)), inner, rtol=1e-6, atol=1e-6)


@schedules
def test_the_hazard_is_the_logarithmic_slope_of_the_noise_share(schedule):
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(schedule.hazard(t), -schedule.da(t) / (1 - schedule.a(t)), rtol=1e-9, atol=0)


def test_impossible_parameters_are_refused_by_name():
    with pytest.raises(ValueError, match="width = 0"):
        MonotoneSurvival(0)
    with pytest.raises(ValueError, match="exponent = 0"):
        PolynomialTokenSurvival(4, 0.0)
    with pytest.raises(ValueError, match="exponent = 0"):
        PolynomialSurvival(0.0)
    with pytest.raises(ValueError, match="rate_min = 2"):
        GeometricSurvival(2.0, 1.0)


def test_a_learned_schedule_starts_near_the_line_and_keeps_its_ends_whatever_is_learned():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(MonotoneSurvival().a(t), 1 - t, rtol=0, atol=0.02)
    wild = MonotoneSurvival(8)
    with torch.no_grad():
        for parameter in wild.parameters():
            parameter += 3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    a = wild.a(torch.linspace(0, 1, 1001))
    assert (a[0], a[-1]) == (1, 0)
    assert (a.diff() <= 0).all()


def test_the_inverse_of_a_learned_schedule_carries_the_gradient_of_its_parameters():
    schedule, a = learned().requires_grad_(True), torch.tensor([0.2, 0.7], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(schedule.inverse(a).sum(), schedule.log_slope)
    with torch.no_grad():
        values = []
        for step in (1e-3, -1e-3):
            schedule.log_slope += step
            values.append(schedule.inverse(a).sum())
            schedule.log_slope -= step
    torch.testing.assert_close(gradient.double(), (values[0] - values[1]) / 2e-3, rtol=1e-4, atol=0)


def test_exponents_per_token_are_polynomial_schedules_side_by_side():
    schedule, t = PolynomialTokenSurvival(3), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    schedule.log_exponents.data = torch.tensor([0.5, 1.0, 2.0]).log()
    for token, exponent in enumerate((0.5, 1.0, 2.0)):
        single = PolynomialSurvival(exponent)
        for name in ("a", "da", "hazard"):
            found, expected = getattr(schedule, name)(t)[1:, token], getattr(single, name)(t)[1:]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert schedule.a(t)[0].tolist() == [1, 1, 1]
    assert schedule.a(t)[2].tolist() == [0, 0, 0]
