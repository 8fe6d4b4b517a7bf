"""Evaluation of densities whose likelihood, samples and traces are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isocline.metrics.density_evaluation import TRACES, evaluate_density
from isocline.metrics.density_settings import DensitySettings
from isocline.metrics.energy_distance import energy_distance
from isocline.networks.normalizing_flow import AbstractNormalizingFlow, Encoded
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood, MaximumLikelihood

SETTINGS = DensitySettings(samples=300, steps=(1, 4), trace_points=8, trace_draws=8, trace_steps=2, grid=8, extent=2.0)
SCALE = 3.0


class ScaleField(nn.Module):
    """dx/dt = −x ln s: data of standard deviation s go to N(0, I)."""

    def forward(self, t, x, cond=None):
        return -math.log(SCALE) * x


class ScaleFlow(AbstractNormalizingFlow):
    """The same map in closed form."""

    def forward(self, x):
        return Encoded(x / SCALE, torch.full((len(x),), -x.shape[1] * math.log(SCALE)))

    def decode(self, z):
        return z * SCALE


def data(count: int, dim: int = 2, seed: int = 0) -> torch.Tensor:
    return SCALE * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def evaluated(network, objective, seed: int = 0, dim: int = 2):
    return evaluate_density(network, objective, data(600, dim, 1), data(400, dim), SETTINGS, seed)


def test_a_field_and_a_flow_of_the_same_map_have_the_same_likelihood_samples_and_picture() -> None:
    field = evaluated(ScaleField(), ContinuousMaximumLikelihood())
    flow = evaluated(ScaleFlow(), MaximumLikelihood())
    exact = -torch.distributions.Normal(0.0, SCALE).log_prob(data(400).double()).sum(1)
    assert flow.nats.mean == pytest.approx(float(exact.mean()), abs=1e-5)
    assert flow.nats.se == pytest.approx(float(exact.std()) / 20, rel=1e-5)
    assert field.nats.mean == pytest.approx(flow.nats.mean, abs=1e-3)
    torch.testing.assert_close(field.samples, flow.samples, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(field.log_density, flow.log_density, atol=1e-3, rtol=1e-3)
    assert flow.log_density.shape == (8, 8)


def test_evaluations_are_those_of_the_solver_and_one_for_a_flow() -> None:
    field = evaluated(ScaleField(), ContinuousMaximumLikelihood())
    assert list(field.over_nfe) == [4, 16]
    assert list(field.nfe) == ["rtol_1e-03", "rtol_1e-05"]
    assert 1 < field.nfe["rtol_1e-03"] < field.nfe["rtol_1e-05"]
    # One step of the classical Runge-Kutta method multiplies by the Taylor polynomial of exp(-ln s).
    factor = sum((-math.log(SCALE)) ** k / math.factorial(k) for k in range(5))
    z = factor * data(400).double()
    one_step = 2 * math.log(SCALE) - torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert field.over_nfe[4].mean == pytest.approx(float(one_step.mean()), rel=1e-5)
    assert abs(field.over_nfe[16].mean - field.nats.mean) < 0.01 * abs(field.over_nfe[4].mean - field.nats.mean)
    flow = evaluated(ScaleFlow(), MaximumLikelihood())
    assert (list(flow.over_nfe), flow.nfe, flow.sampling_nfe, flow.trace_sd) == ([1], {"pass": 1}, 1, {})


def test_the_exact_model_is_as_far_from_the_test_split_as_training_data_are() -> None:
    found = evaluated(ScaleFlow(), MaximumLikelihood())
    assert len(found.energy) == 3
    assert all(abs(value) < 0.15 for value in (*found.energy, found.floor.mean))
    wrong = evaluate_density(ScaleFlow(), MaximumLikelihood(), data(600), data(400) / 2, SETTINGS, 0)
    assert min(wrong.energy) > 0.3


def test_the_spread_of_hutchinsons_estimate_of_a_rotation_free_scale_is_zero_and_of_a_shear_is_not() -> None:
    class Shear(nn.Module):
        def forward(self, t, x, cond=None):
            return x.flip(1)  # off-diagonal Jacobian: zᵀ J z = ±2 with one probe

    still = evaluated(ScaleField(), ContinuousMaximumLikelihood())
    assert set(still.trace_sd) == set(TRACES)
    assert still.trace_sd["hutchinson_1"].mean < 1e-6
    shear = evaluated(Shear(), ContinuousMaximumLikelihood())
    assert 1.0 < shear.trace_sd["hutchinson_1"].mean < 3.0
    assert shear.trace_sd["hutchinson_3"].mean < shear.trace_sd["hutchinson_1"].mean


def test_a_picture_is_made_of_two_dimensions_only() -> None:
    assert evaluated(ScaleFlow(), MaximumLikelihood(), dim=3).log_density is None


def test_another_seed_draws_other_samples_and_the_same_one_the_same() -> None:
    first, again = (evaluated(ScaleFlow(), MaximumLikelihood()) for _ in range(2))
    assert first.energy == again.energy
    assert evaluated(ScaleFlow(), MaximumLikelihood(), seed=1).energy != first.energy


def test_the_energy_distance_of_two_points_a_side_is_computed_by_hand() -> None:
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [5.0]])
    # 2 · mean(3, 5, 2, 4) − 1 − 2
    assert energy_distance(a, b) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="shapes"):
        energy_distance(a, b[:1])


def test_the_energy_distance_is_unbiased_where_the_laws_agree() -> None:
    values = torch.tensor([energy_distance(data(40, 2, 2 * i), data(40, 2, 2 * i + 1)) for i in range(300)])
    assert abs(values.mean()) < 4 * values.std() / 300**0.5
    assert (values < 0).any()


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 1), ("steps", (4, 1)), ("rtols", (1e-5, 1e-3)), ("grid", 1), ("extent", 0.0)]
)
def test_settings_out_of_range_are_refused(name: str, value) -> None:
    with pytest.raises(ValueError, match=name):
        DensitySettings(**{name: value})
