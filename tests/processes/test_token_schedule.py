"""Survival schedules: ends, derivatives, inverses."""

import pytest
import torch

from isocline.processes.token_schedule import (
    CosineSurvival,
    GeometricSurvival,
    LinearSurvival,
    PolynomialSurvival,
)

SCHEDULES = [LinearSurvival(), PolynomialSurvival(2.0), CosineSurvival(), GeometricSurvival()]
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
    with pytest.raises(ValueError, match="exponent = 0"):
        PolynomialSurvival(0.0)
    with pytest.raises(ValueError, match="rate_min = 2"):
        GeometricSurvival(2.0, 1.0)
