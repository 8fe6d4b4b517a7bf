"""Norms of Jacobians along paths: linear fields in closed form, growth bounds that hold, pairs from below."""

import math

import pytest
import torch

from isocline.dynamics.lipschitz import estimate_lipschitz
from isocline.dynamics.path import FieldPath, follow


def generator():
    return torch.Generator().manual_seed(0)


def path_of(ts, batch=3, width=2):
    states = torch.randn(len(ts), batch, width, dtype=torch.float64, generator=generator())
    return FieldPath(torch.tensor(ts, dtype=torch.float64), states)


SHEAR = torch.tensor([[-1.0, 6.0], [0.0, -2.0]], dtype=torch.float64)


def test_norms_of_a_linear_field_are_those_of_its_matrix():
    found = estimate_lipschitz(lambda t, x, cond: x @ SHEAR.T, path_of([0.0, 0.5, 2.0]), 2, generator())
    symmetric = torch.linalg.eigvalsh((SHEAR + SHEAR.T) / 2)
    everywhere = torch.ones(3, 3, dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(SHEAR, 2))
    torch.testing.assert_close(found.norms, norm * everywhere)
    torch.testing.assert_close(found.log_norms, symmetric[1] * everywhere)
    torch.testing.assert_close(found.least_log_norms, symmetric[0] * everywhere)
    torch.testing.assert_close(found.stiffness_factor, 3.0 * everywhere)
    torch.testing.assert_close(found.growth[-1], (2 * symmetric[1]).exp() * everywhere[0])
    assert (found.pair_bounds <= norm + 1e-12).all()
    assert (found.pair_bounds >= float(torch.linalg.svdvals(SHEAR)[-1]) - 1e-12).all()
    assert found.constant == pytest.approx(norm)
    row = found.rows()[1]
    assert (row.t, row.largest, row.norm.n) == (0.5, pytest.approx(norm), 3)


def test_backward_in_time_the_logarithmic_norms_change_sides():
    forward = estimate_lipschitz(lambda t, x, cond: x @ SHEAR.T, path_of([0.0, 1.0]), 2, generator())
    backward = estimate_lipschitz(lambda t, x, cond: x @ SHEAR.T, path_of([1.0, 0.0]), 2, generator())
    torch.testing.assert_close(backward.log_norms, -forward.least_log_norms)
    torch.testing.assert_close(backward.least_log_norms, -forward.log_norms)
    assert (backward.growth[-1] > 1).all()


def test_neighbours_part_no_faster_than_the_growth_bound_and_as_fast_where_it_is_sharp():
    def field(t, x, cond):
        return torch.stack([x[:, 1], -torch.sin(x[:, 0]) - 0.1 * x[:, 1]], 1)

    ts = torch.linspace(0, 3, 61, dtype=torch.float64)
    start = torch.tensor([[3.0, 0.1], [0.5, -0.3]], dtype=torch.float64)
    path = follow(field, start, ts, rtol=1e-10, atol=1e-12)
    found = estimate_lipschitz(field, path, 2, generator())
    near = follow(field, start + 1e-6, ts, rtol=1e-10, atol=1e-12)
    apart = torch.linalg.vector_norm(near.states - path.states, dim=-1)
    assert (apart <= apart[0] * found.growth * 1.001).all()
    rate = torch.tensor([0.7, -0.4], dtype=torch.float64)
    path = follow(lambda t, x, cond: rate[None, :1] * x, start, ts)
    sharp = estimate_lipschitz(lambda t, x, cond: rate[None, :1] * x, path, 2, generator())
    torch.testing.assert_close(sharp.growth, torch.exp(0.7 * ts)[:, None].expand(61, 2))


def test_pairs_see_a_steep_place_between_the_samples():
    # A kink of slope 50 between -0.01 and 0.01, flat where the samples are.
    def field(t, x, cond):
        return (50 * x).clamp(-0.5, 0.5)

    states = torch.tensor([[[-0.02], [0.02]]], dtype=torch.float64)
    found = estimate_lipschitz(field, FieldPath(torch.zeros(1, dtype=torch.float64), states), 1, generator())
    assert not found.norms.any()
    assert found.constant == pytest.approx(25)


def test_pairs_are_compared_under_one_condition():
    states = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    cond = torch.tensor([0.0, 100.0], dtype=torch.float64)
    path = FieldPath(torch.zeros(1, dtype=torch.float64), states)
    found = estimate_lipschitz(lambda t, x, cond: 2 * x + cond[:, None], path, 1, generator(), cond)
    torch.testing.assert_close(found.pair_bounds, torch.full((1, 2), 2.0, dtype=torch.float64))


def test_a_single_sample_and_equal_samples_have_no_pairs():
    one = estimate_lipschitz(lambda t, x, cond: 3 * x, path_of([0.0], batch=1), 2, generator())
    assert one.pair_bounds.shape == (1, 0)
    assert one.rows()[0].pair_bound is None
    assert one.constant == pytest.approx(3)
    same = FieldPath(torch.zeros(1, dtype=torch.float64), torch.ones(1, 2, 2, dtype=torch.float64))
    assert estimate_lipschitz(lambda t, x, cond: 3 * x, same, 2, generator()).pair_bounds.max() == 0
    assert math.isfinite(one.constant)
