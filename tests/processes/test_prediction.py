"""All pairs of predictions convert into each other, and stay right at the ends where they can."""

from __future__ import annotations

import itertools

import pytest
import torch

from isocline.objectives.weighting import EDMWeighting
from isocline.processes.prediction import (
    DataPrediction,
    DifferencePrediction,
    NoisePrediction,
    PreconditionedPrediction,
    ScorePrediction,
    TrigFlowPrediction,
    VelocityPrediction,
    VPrediction,
    conversion,
    convert,
)
from isocline.processes.schedule import (
    EDMSchedule,
    InterpolantSchedule,
    LinearSchedule,
    ScheduleValues,
    TrigFlowSchedule,
    VESchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)

PREDICTIONS = [
    DataPrediction(),
    NoisePrediction(),
    ScorePrediction(),
    VPrediction(),
    VelocityPrediction(),
    DifferencePrediction(),
    TrigFlowPrediction(),
    PreconditionedPrediction(0.6),
]
SCHEDULES = [
    LinearSchedule(),
    VPLinearSchedule(),
    VPCosineSchedule(),
    VESchedule(),
    EDMSchedule(),
    TrigFlowSchedule(),
    InterpolantSchedule(),
]


def truth(schedule, t: torch.Tensor):
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(len(t), 3, generator=g, dtype=torch.float64) for _ in range(2))
    values = schedule(t)
    x = values.alpha[:, None] * x0 + values.sigma[:, None] * noise
    return x0, noise, x, values


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("source", "target"), itertools.product(PREDICTIONS, PREDICTIONS))
def test_every_pair_converts(schedule, source, target) -> None:
    x0, noise, x, values = truth(schedule, torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    p, q = (kind.target(x0, noise, values) for kind in (source, target))
    torch.testing.assert_close(convert(p, x, values, source, target), q, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_targets_are_the_definitions(schedule) -> None:
    x0, noise, _, v = truth(schedule, torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
    a, s, da, ds = (value[:, None] for value in v)
    expected = [x0, noise, -noise / s, a * noise - s * x0, da * x0 + ds * noise, noise - x0]
    for kind, value in zip(PREDICTIONS, expected, strict=False):
        torch.testing.assert_close(kind.target(x0, noise, v), value)


@pytest.mark.parametrize("sigma", [1e-12, 0.002, 0.6, 80.0, 1e9])
def test_preconditioning_is_edm_s_at_every_noise_level(sigma: float) -> None:
    data = 0.6
    s = torch.tensor(sigma, dtype=torch.float64)
    one, zero = torch.ones_like(s), torch.zeros_like(s)
    values = ScheduleValues(one, s, zero, one)
    skip, out = conversion(values, PreconditionedPrediction(data), DataPrediction())
    torch.testing.assert_close(skip, data**2 / (s**2 + data**2), rtol=1e-12, atol=0)
    torch.testing.assert_close(out, s * data / (s**2 + data**2).sqrt(), rtol=1e-12, atol=0)
    # Of unit variance for data of variance σ_d², whatever the noise.
    a, b = PreconditionedPrediction(data).coefficients(values)
    torch.testing.assert_close((a * data) ** 2 + b**2, one)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weight_one_on_the_preconditioned_output_is_edm_s_loss(schedule) -> None:
    values = schedule(torch.linspace(0.01, 0.99, 9, dtype=torch.float64))
    weight = EDMWeighting(0.6)(values, PreconditionedPrediction(0.6))
    torch.testing.assert_close(weight, torch.ones(9, dtype=torch.float64))


def test_preconditioned_predictions_are_equal_by_their_scale() -> None:
    assert PreconditionedPrediction(0.6) == PreconditionedPrediction(0.6) != PreconditionedPrediction(0.5)
    assert PreconditionedPrediction(0.6) != DataPrediction()
    with pytest.raises(ValueError, match="sigma_data=0"):
        PreconditionedPrediction(0.0)


@pytest.mark.parametrize(
    "source",
    [
        NoisePrediction(),
        ScorePrediction(),
        VPrediction(),
        VelocityPrediction(),
        PreconditionedPrediction(),
    ],
)
@pytest.mark.parametrize("schedule", [LinearSchedule(), VPLinearSchedule(), VPCosineSchedule(), InterpolantSchedule()])
def test_data_without_noise_is_the_state_itself_whatever_the_network_says(schedule, source) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    values = schedule(torch.zeros(2))
    assert torch.equal(convert(torch.full_like(x, 7.0), x, values, source, DataPrediction()), x)


@pytest.mark.parametrize("source", [DataPrediction(), VPrediction(), VelocityPrediction()])
@pytest.mark.parametrize("schedule", [LinearSchedule(), VPCosineSchedule()])
def test_pure_noise_is_the_state_itself_whatever_the_network_says(schedule, source) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    values = schedule(torch.ones(2))
    assert torch.equal(convert(torch.full_like(x, 7.0), x, values, source, NoisePrediction()), x)


def test_what_cannot_be_had_is_not_finite() -> None:
    x = torch.ones(1, 1)
    at_data, at_noise = LinearSchedule()(torch.zeros(1)), LinearSchedule()(torch.ones(1))
    assert not convert(x, x, at_data, DataPrediction(), NoisePrediction()).isfinite().any()
    assert not convert(x, x, at_noise, NoisePrediction(), DataPrediction()).isfinite().any()


def test_trigflow_prediction_has_its_published_form() -> None:
    schedule = TrigFlowSchedule(0.5)
    x0, noise, x, values = truth(schedule, torch.tensor([0.2, 0.7]))
    angle = torch.tensor([[0.2], [0.7]], dtype=torch.float32).double() * torch.pi / 2
    p = TrigFlowPrediction().target(x0, noise, values)
    torch.testing.assert_close(p, 0.5 * angle.cos() * noise - angle.sin() * x0)
    torch.testing.assert_close(angle.cos() * x - angle.sin() * p, x0)


def test_the_result_has_the_states_dtype() -> None:
    x = torch.ones(2, 1)
    p = torch.ones(2, 1, dtype=torch.bfloat16)
    values = LinearSchedule()(torch.tensor([0.5, 0.6]))
    assert convert(p, x, values, VelocityPrediction(), DataPrediction()).dtype == torch.float32
    assert convert(p, x, values, VelocityPrediction(), VelocityPrediction()).dtype == torch.float32
