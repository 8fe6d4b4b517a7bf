"""The evaluations for equal quality: exact on curves whose crossing is known, with the jackknife's error."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.metrics.equal_quality import Level, needed_nfe, ratio
from isocline.metrics.jackknife import delete_group_jackknife

BUDGETS = [2, 4, 8, 16]


def level(whole: float, *left_out: float) -> Level:
    return Level(whole, left_out or (whole,) * 4)


def test_a_curve_that_is_linear_in_the_logarithm_is_crossed_exactly() -> None:
    curve = [level(5.0 - math.log(n)) for n in BUDGETS]
    found = needed_nfe(BUDGETS, curve, level(5.0 - math.log(6.0)))
    assert found is not None
    assert found.nfe == pytest.approx(6.0)
    assert found.logarithm.se == pytest.approx(0.0, abs=1e-9)
    assert not found.at_most
    assert not found.open_above


def test_a_curve_that_rises_again_has_crossed_only_where_it_stays_below() -> None:
    found = needed_nfe(BUDGETS, [level(v) for v in (3.0, 0.5, 2.0, 0.0)], level(1.0))
    assert found is not None
    assert found.nfe == pytest.approx(8 * 2**0.5)


def test_the_first_budget_may_be_enough_and_the_last_may_not() -> None:
    enough = needed_nfe(BUDGETS, [level(0.5)] * 4, level(1.0))
    assert enough is not None
    assert (enough.nfe, enough.at_most) == (pytest.approx(2.0), True)
    assert needed_nfe(BUDGETS, [level(2.0)] * 4, level(1.0)) is None


def test_a_group_without_which_no_budget_is_enough_opens_the_interval() -> None:
    curve = [level(3.0), level(2.0), level(1.5), level(0.9, 0.9, 0.9, 0.9, 1.1)]
    bar = level(1.0, 1.0, 1.0, 1.0, 1.0)
    found = needed_nfe(BUDGETS, curve, bar)
    assert found is not None
    assert found.open_above
    assert found.logarithm.se is not None
    assert found.logarithm.se > 0


def test_left_out_statistics_are_read_back_from_the_jackknifes_values() -> None:
    samples = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    statistic = lambda part: float(part.square().mean())  # noqa: E731
    found = Level.of(delete_group_jackknife(statistic, samples, 4).as_dict())
    left_out = [statistic(samples[torch.arange(40) % 4 != group]) for group in range(4)]
    shift = sum(left_out) / 4 - found.whole
    assert found.left_out == pytest.approx([value - shift for value in left_out])


def test_the_error_is_that_of_a_crossing_of_noisy_curves() -> None:
    # The curve is 8/n plus noise that one sample shares over all budgets: NFE = 8/(bar - noise), d ln NFE = noise/bar.
    noise = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    budgets = [float(n) for n in range(2, 200)]

    def at(n: float) -> Level:
        return Level.of(delete_group_jackknife(lambda part: float(8 / n + 0.2 * part.mean()), noise, 10).as_dict())

    found = needed_nfe(budgets, [at(n) for n in budgets], Level(0.5, (0.5,) * 10))
    assert found is not None
    assert found.nfe == pytest.approx(8 / (0.5 - 0.2 * float(noise.mean())), rel=1e-3)
    assert found.logarithm.se == pytest.approx(0.2 / 0.5 / 400**0.5, rel=0.4)


def test_a_ratio_is_paired() -> None:
    a = [math.log(8.0) + 0.3 * g for g in range(5)]
    found = ratio(a, [value - math.log(2.0) for value in a])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_curves_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="rising positive"):
        needed_nfe([4, 2], [level(1.0)] * 2, level(1.0))
    with pytest.raises(ValueError, match="same groups"):
        needed_nfe([2, 4], [level(1.0)] * 2, level(1.0, 1.0, 1.0))
