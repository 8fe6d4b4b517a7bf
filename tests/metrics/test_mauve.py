"""MAUVE: one for equal shares, small for disjoint ones, symmetric, and in between where it can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from isocline.metrics.mauve import Mauve, frontier_area, mauve
from isocline.metrics.text_metrics import TextReference, TextSet


def test_equal_laws_have_area_one_and_disjoint_ones_nearly_none():
    p = np.array([0.2, 0.3, 0.5])
    assert frontier_area(p, p) == pytest.approx(1.0, abs=1e-4)
    # Disjoint: KL(Q | R) = −ln(1 − λ) and KL(P | R) = −ln λ, so the curve is ((1 − λ)^5, λ^5).
    u = np.linspace(0, 1, 200_001)
    exact = np.trapezoid((1 - u ** (1 / 5)) ** 5, u)
    assert frontier_area(np.array([1.0, 0.0]), np.array([0.0, 1.0]), points=4001) == pytest.approx(exact, rel=1e-3)


def test_the_area_is_symmetric_and_falls_as_the_laws_part():
    p = np.array([0.5, 0.5])
    areas = [frontier_area(p, np.array([0.5 + d, 0.5 - d]), points=200) for d in (0.0, 0.1, 0.2, 0.4)]
    assert areas == sorted(areas, reverse=True)
    other = np.array([0.8, 0.2])
    assert frontier_area(p, other, points=400) == pytest.approx(frontier_area(other, p, points=400), abs=1e-6)


def test_features_of_one_law_are_near_and_those_of_another_far():
    stream = np.random.default_rng(0)
    one, two = stream.normal(size=(200, 4)), stream.normal(size=(200, 4))
    assert mauve(one, two, 8) > 0.9
    assert mauve(one, two + 4, 8) < 0.1
    with pytest.raises(ValueError, match="clusters = 300"):
        mauve(one, two, 300)


def test_without_an_embedding_the_metric_says_what_it_needs():
    with pytest.raises(ValueError, match=r"metrics\.mauve\.embed"):
        Mauve()
    lengths = Mauve(lambda texts: np.array([[len(text)] for text in texts], dtype=float), clusters=2)
    real = TextReference({}, str, ["a" * (1 + i % 5) for i in range(40)], frozenset())
    same = lengths(TextSet(None, real.held_out[:20]), real)["mauve"]
    other = lengths(TextSet(None, ["b" * 90] * 20), real)["mauve"]
    assert other < 0.1 < same
