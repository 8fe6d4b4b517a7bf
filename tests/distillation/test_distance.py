"""Distances of a consistency loss."""

from __future__ import annotations

import pytest
import torch
from tests.distillation.known_flow import D

from isocline.distillation.distance import PseudoHuber, SquaredDistance


def test_pseudo_huber_is_quadratic_near_zero_and_linear_far_away() -> None:
    distance = PseudoHuber(0.1)
    near, far = torch.full((1, 4), 1e-4, dtype=D), torch.full((1, 4), 1e4, dtype=D)
    assert float(distance(near)) == pytest.approx(1e-8 / 0.2, rel=1e-3)
    assert float(distance(far)) == pytest.approx(1e4, rel=1e-4)
    with pytest.raises(ValueError, match="c=0"):
        PseudoHuber(0.0)


def test_pseudo_huber_is_the_articles_over_the_root_of_the_dimension() -> None:
    difference = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=D)
    c = 0.00054 * 10**0.5
    article = (difference.flatten(1).norm(dim=1).square() + c * c).sqrt() - c
    torch.testing.assert_close(PseudoHuber(0.00054)(difference), article / 10**0.5)


def test_a_distance_is_a_mean_over_the_event() -> None:
    difference = torch.tensor([[1.0, 2.0], [0.0, 0.0]], dtype=D)
    torch.testing.assert_close(SquaredDistance()(difference), torch.tensor([2.5, 0.0], dtype=D))
    torch.testing.assert_close(SquaredDistance()(difference.repeat(1, 3)), torch.tensor([2.5, 0.0], dtype=D))
