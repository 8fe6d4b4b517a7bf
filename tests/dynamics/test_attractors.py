"""Limit sets of flows and maps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.dynamics.attractors import LimitKind, distinct_attractors, map_limits, orbit_distance
from isocline.dynamics.flow_limits import FlowLimits
from isocline.dynamics.system import Flow, IteratedMap

D = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def van_der_pol(t: torch.Tensor, x: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[:, 1], cond * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], 1)


def test_van_der_pols_period_at_mu_one() -> None:
    """6.6632868593 (Andersen, Geer, Power series expansions for the frequency of the van der Pol oscillator, 1982)."""
    limits = FlowLimits(horizon=30.0).find(Flow(van_der_pol, 0.0, torch.ones(3, dtype=D)), normal(3, 2))
    assert limits.kinds.tolist() == [LimitKind.CYCLE] * 3
    torch.testing.assert_close(limits.periods, torch.full((3,), 6.6632868593, dtype=D), rtol=0, atol=1e-6)
    assert float(limits.residuals.max()) < 1e-6
    assert limits.orbits[..., 0].amax(0) == pytest.approx([2.0086] * 3, abs=0.02)
    attractors = distinct_attractors(limits, 0.01)
    assert attractors.hits.tolist() == [3]


def test_the_period_depends_on_the_condition_of_each_sample() -> None:
    """At small μ the period is 2π (1 + μ²/16 - 5 μ⁴/3072), Andersen and Geer's series."""
    mu = torch.tensor([0.3, 1.0, 0.4], dtype=D)
    limits = FlowLimits(horizon=50.0).find(Flow(van_der_pol, 0.0, mu), normal(3, 2))
    expected = 2 * math.pi * (1 + mu**2 / 16 - 5 * mu**4 / 3072)
    torch.testing.assert_close(limits.periods[[0, 2]], expected[[0, 2]], rtol=1e-5, atol=0)
    assert len(distinct_attractors(limits, 0.01).hits) == 3


def test_a_cycle_that_crosses_its_section_twice_is_not_cut_short() -> None:
    """A Lissajous figure with frequencies 2 and 3 returns after 2π, and passes its plane before that."""

    def drift(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
        pairs = x.reshape(-1, 2, 2)
        turned = torch.stack([-pairs[..., 1], pairs[..., 0]], -1) * torch.tensor([[2.0], [3.0]], dtype=D)
        return (turned + pairs * (1 - pairs.square().sum(-1, keepdim=True))).reshape(x.shape)

    limits = FlowLimits(horizon=12.0).find(Flow(drift, 0.0), normal(2, 4))
    torch.testing.assert_close(limits.periods, torch.full((2,), 2 * math.pi, dtype=D), rtol=1e-6, atol=0)


def test_rest_escape_and_chaos_are_told_apart() -> None:
    def mixed(t: torch.Tensor, x: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        a, b, c = x.unbind(1)
        lorenz = torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)
        return torch.where(cond[:, None] == 0, -x, torch.where(cond[:, None] == 1, x * x.abs(), lorenz))

    starts = torch.tensor([[1.0, 2.0, 3.0]] * 3, dtype=D)
    limits = FlowLimits(horizon=12.0).find(Flow(mixed, 0.0, torch.tensor([0, 1, 2])), starts)
    assert limits.kinds.tolist() == [LimitKind.FIXED_POINT, LimitKind.ESCAPED, LimitKind.UNSETTLED]
    assert limits.settled.tolist() == [True, False, False]
    assert limits.periods.isnan().tolist() == [False, True, True]
    assert float(limits.points[0].abs().max()) < 1e-5
    assert distinct_attractors(limits, 0.01).members.tolist() == [0, -1, -1]
    assert all(kind.explanation for kind in LimitKind)


def test_fixed_points_of_a_gradient_flow_are_merged_and_counted() -> None:
    system = Flow(lambda t, x, cond: x - x**3, 0.0)
    starts = torch.linspace(-2, 2, 9, dtype=D)[:, None] + 0.1
    attractors = distinct_attractors(FlowLimits(horizon=30.0).find(system, starts), 0.01)
    assert attractors.hits.tolist() == [5, 4]
    torch.testing.assert_close(attractors.points[:, 0], torch.tensor([1.0, -1.0], dtype=D), rtol=0, atol=1e-4)
    torch.testing.assert_close(starts[attractors.members == 1, 0] < 0, torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(("rate", "period"), [(2.8, 0), (3.2, 2), (3.5, 4), (3.55, 8)])
def test_the_logistic_map_doubles_its_period(rate: float, period: int) -> None:
    system = IteratedMap(lambda t, x, cond: rate * x * (1 - x), 0.0)
    starts = torch.tensor([[0.2], [0.37], [0.9]], dtype=D)
    limits = map_limits(system, starts, 2000, tolerance=1e-8)
    assert limits.periods.tolist() == [period] * 3
    attractors = distinct_attractors(limits, 1e-6)
    assert attractors.hits.tolist() == [3]
    if period == 2:
        assert sorted(attractors.orbits[:2, 0, 0].tolist()) == pytest.approx([0.5130445, 0.7994555], abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(rate=st.floats(-0.999, 0.999), start=st.floats(0.1, 10))
def test_an_iteration_that_creeps_is_not_taken_for_its_limit(rate: float, start: float) -> None:
    """Steps are small long before the limit 1 is near: the error reported is that of the geometric series."""
    system = IteratedMap(lambda t, x, cond: 1 + rate * (x - 1), 0.0)
    limits = map_limits(system, torch.tensor([[1 + start]], dtype=D), 60, tolerance=1e-3)
    if limits.kinds[0] == LimitKind.FIXED_POINT:
        assert abs(float(limits.points) - 1) <= 1.01e-3 * (1 + start) / (1 - abs(rate)) ** (rate < 0)
        if rate > 0:
            assert abs(float(limits.points) - 1) == pytest.approx(float(limits.residuals), rel=0.05, abs=1e-12)


def test_maps_escape_and_wander_too() -> None:
    system = IteratedMap(lambda t, x, cond: cond[:, None] * x * (1 - x), 0.0, torch.tensor([4.0, 4.0], dtype=D))
    limits = map_limits(system, torch.tensor([[3.0], [0.3141]], dtype=D), 500)
    assert limits.kinds.tolist() == [LimitKind.ESCAPED, LimitKind.UNSETTLED]
    assert limits.evaluations[0] < 50


def test_the_distance_to_an_orbit_is_that_to_its_polygon() -> None:
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]], dtype=D)
    for point, distance in (([1.0, -1.0], 1.0), ([-1.0, 1.0], 1.0), ([3.0, 3.0], 2**0.5), ([1.0, 0.0], 0.0)):
        assert float(orbit_distance(torch.tensor(point, dtype=D), square)) == pytest.approx(distance / 2**0.5)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="horizon"):
        FlowLimits(horizon=0.0)
    with pytest.raises(ValueError, match="iterations=0"):
        map_limits(IteratedMap(lambda t, x, c: x, 0.0), torch.ones(1, 1), 0)
    with pytest.raises(TypeError, match="int64"):
        FlowLimits(horizon=1.0).find(Flow(lambda t, x, c: x, 0.0), torch.ones(1, 1, dtype=torch.int64))
