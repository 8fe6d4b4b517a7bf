"""Geometry of trajectories against lines, circles, helices and planes."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.dynamics.geometry import (
    arc_over_chord,
    effective_dimension,
    local_curvature,
    pooled_shares,
    principal_shares,
    speed,
    trajectory_geometry,
)

D = torch.float64


def helix(turns: float, radius: float, pitch: float, states: int) -> torch.Tensor:
    angle = torch.linspace(0, 2 * math.pi * turns, states, dtype=D)
    return torch.stack([radius * angle.cos(), radius * angle.sin(), pitch * angle], -1)[:, None]


def rotated(states: torch.Tensor, size: int, seed: int) -> torch.Tensor:
    """The states in a larger space, turned and moved."""
    stream = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=stream, dtype=D))[0][: states.shape[-1]]
    return states @ basis + torch.randn(size, generator=stream, dtype=D)


def test_a_line_travelled_at_constant_speed_has_nothing_but_speed() -> None:
    ts = torch.linspace(1, 0, 9, dtype=D)
    ys = rotated(2.0 * ts[:, None, None].expand(9, 3, 1), 5, 0)
    found = trajectory_geometry(ts, ys)
    for values in (found.straightness, found.turning, found.curvature):
        assert float(values.abs().max()) < 1e-6
    torch.testing.assert_close(found.arc_over_chord, torch.ones(3, dtype=D))
    torch.testing.assert_close(found.shares[:, 0], torch.ones(3, dtype=D))
    torch.testing.assert_close(found.speed, torch.full((8, 3), 2 / math.sqrt(5), dtype=D))


@pytest.mark.parametrize("radius", [0.1, 1.0, 40.0])
def test_the_curvature_of_a_circle_is_one_over_its_radius_however_its_states_are_spaced(radius: float) -> None:
    angle = torch.tensor([0.0, 0.1, 0.5, 0.52, 1.7, 3.0, 6.0], dtype=D)
    ys = radius * torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    torch.testing.assert_close(local_curvature(ys), torch.full((5, 1), 1 / radius, dtype=D))


def test_the_curvature_of_a_helix_tends_to_the_closed_form_with_order_two() -> None:
    exact = 2.0 / (2.0**2 + 0.5**2)
    errors = [float((local_curvature(helix(1, 2.0, 0.5, n + 1)) - exact).abs().max()) for n in (100, 200)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_there_and_back_has_no_curvature_and_rests_do_not_matter() -> None:
    back = torch.tensor([[0.0], [1.0], [0.0], [0.0], [0.0]])[:, None]
    assert float(local_curvature(back).abs().max()) == 0.0


def test_arc_over_chord_of_a_half_circle_is_half_pi_and_of_a_corner_is_known() -> None:
    angle = torch.linspace(0, math.pi, 2001, dtype=D)
    assert float(arc_over_chord(torch.stack([angle.cos(), angle.sin()], -1)[:, None])) == pytest.approx(math.pi / 2)
    corner = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])[:, None]
    assert float(arc_over_chord(corner)) == pytest.approx(7 / 5)
    closed = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]])[:, None]
    assert float(arc_over_chord(closed)) == math.inf


def test_a_planar_trajectory_has_two_axes_in_any_space() -> None:
    angle = torch.linspace(0, 5, 40, dtype=D)
    spiral = (angle[:, None] * torch.stack([angle.cos(), angle.sin()], -1))[:, None]
    shares = principal_shares(rotated(spiral, 30, 1))
    assert float(shares[0, :2].sum()) == pytest.approx(1.0)
    assert float(shares[0, 1]) > 0.05
    assert trajectory_geometry(angle, rotated(spiral, 30, 1)).planarity.tolist() == pytest.approx([1.0])


def test_a_whole_turn_of_a_circle_has_two_equal_axes_and_a_helix_needs_three() -> None:
    angle = torch.arange(12, dtype=D) * 2 * math.pi / 12
    circle = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    assert float(effective_dimension(principal_shares(circle))) == pytest.approx(2.0)
    shares = principal_shares(helix(3, 1.0, 0.1, 300))
    assert float(shares[0, 2]) > 0.1
    assert float(shares.sum()) == pytest.approx(1.0)


def test_planes_of_two_trajectories_are_pooled_only_if_they_are_one() -> None:
    angle = torch.arange(12, dtype=D) * 2 * math.pi / 12
    plane = torch.stack([angle.cos(), angle.sin()], -1)
    nothing = torch.zeros_like(plane)
    same = torch.stack([torch.cat([plane, nothing], -1), torch.cat([plane + 7, nothing], -1)], 1)
    other = torch.stack([torch.cat([plane, nothing], -1), torch.cat([nothing, plane], -1)], 1)
    assert float(effective_dimension(pooled_shares(same))) == pytest.approx(2.0)
    assert float(effective_dimension(pooled_shares(other))) == pytest.approx(4.0)
    assert principal_shares(other)[:, :2].sum(-1).tolist() == pytest.approx([1.0, 1.0])


def test_speed_is_the_slope_whichever_way_time_runs() -> None:
    ts = torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=D)
    ys = (ts.square()[:, None, None] * torch.tensor([3.0, 4.0], dtype=D)).expand(4, 1, 2)
    expected = 5 / math.sqrt(2) * torch.tensor([[1.5], [0.75], [0.25]], dtype=D)
    torch.testing.assert_close(speed(ts, ys), expected)


def test_what_does_not_move_has_no_axes_and_too_few_states_are_refused() -> None:
    assert float(principal_shares(torch.ones(4, 1, 3)).sum()) == 0.0
    with pytest.raises(ValueError, match="save_steps"):
        local_curvature(torch.zeros(2, 1, 3))
