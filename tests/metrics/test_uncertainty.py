"""Closed forms and coverage of estimates and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from isocline.metrics.uncertainty import (
    Estimate,
    bootstrap_interval,
    independent_difference,
    paired_difference,
    student_quantile,
)


def test_standard_error_is_the_spread_over_root_n():
    estimate = Estimate.from_values([1.0, 2.0, 3.0, 4.0])
    assert estimate.mean == 2.5
    assert estimate.sd == pytest.approx(math.sqrt(5 / 3))
    assert estimate.se == pytest.approx(math.sqrt(5 / 3) / 2)
    assert estimate.n == 4


def test_a_single_repetition_claims_no_error():
    estimate = Estimate.from_values([3.0])
    assert (estimate.mean, estimate.sd, estimate.se, estimate.n) == (3.0, None, None, 1)
    assert estimate.interval() == (-math.inf, math.inf)


def test_a_non_finite_value_is_refused_by_position():
    with pytest.raises(ValueError, match=r"values\[1\] is nan"):
        Estimate.from_values([1.0, math.nan])


def test_student_quantiles_match_the_tables():
    assert student_quantile(0.975, 4) == pytest.approx(2.776445, abs=1e-6)
    assert student_quantile(0.975, math.inf) == pytest.approx(1.959964, abs=1e-6)


def test_ratio_with_equal_denominators_is_the_mean_of_quotients():
    ratio = Estimate.from_ratio([2.0, 4.0, 9.0], [2.0, 2.0, 2.0])
    plain = Estimate.from_values([1.0, 2.0, 4.5])
    assert ratio.mean == pytest.approx(plain.mean)
    assert ratio.se == pytest.approx(plain.se)


def test_ratio_error_matches_repeated_sampling():
    rng = np.random.default_rng(0)
    denominators = rng.uniform(5, 15, size=(2000, 40))
    numerators = 3 * denominators + rng.normal(size=denominators.shape)
    estimates = [Estimate.from_ratio(a, b) for a, b in zip(numerators, denominators, strict=True)]
    spread = np.std([e.mean for e in estimates])
    assert np.mean([e.se for e in estimates]) == pytest.approx(spread, rel=0.05)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for row in rng.normal(size=(2000, 4)):
        low, high = Estimate.from_values(row).interval(0.9)
        hits += low <= 0.0 <= high
    assert 0.87 < hits / 2000 < 0.93


def test_pairing_removes_what_both_sides_share():
    shared = np.random.default_rng(2).normal(scale=10, size=8)
    a, b = shared + 1.0, shared + np.linspace(-0.01, 0.01, 8)
    paired = paired_difference(a, b)
    apart = independent_difference(Estimate.from_values(a), Estimate.from_values(b))
    assert paired.significant
    assert not apart.significant
    assert paired.mean == pytest.approx(apart.mean) == pytest.approx(1.0)


def test_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_welch_degrees_reduce_to_the_pooled_count_for_equal_spreads():
    a, b = Estimate(1.0, 2.0, 1.0, 5), Estimate(0.0, 2.0, 1.0, 5)
    assert independent_difference(a, b).degrees == pytest.approx(8.0)


def test_bootstrap_interval_of_a_mean_is_close_to_students():
    values = torch.randn(200, generator=torch.Generator().manual_seed(3)).double().numpy()
    low, high = bootstrap_interval(values, np.mean, torch.Generator().manual_seed(4))
    exact = Estimate.from_values(values).interval()
    assert low == pytest.approx(exact[0], abs=0.02)
    assert high == pytest.approx(exact[1], abs=0.02)
    assert (low, high) == bootstrap_interval(values, np.mean, torch.Generator().manual_seed(4))
