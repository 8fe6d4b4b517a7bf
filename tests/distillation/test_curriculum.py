"""Curricula: the numbers of the articles."""

from __future__ import annotations

import math

import pytest

from isocline.distillation.curriculum import ConstantCurriculum, DoublingCurriculum, SquareRootCurriculum
from isocline.distillation.target_decay import ConstantDecay, CurriculumDecay


def test_the_curriculum_doubles_on_schedule() -> None:
    curriculum = DoublingCurriculum(first=10, last=80, steps=400)
    assert [curriculum(step) for step in (0, 99, 100, 200, 300, 399, 10**9)] == [10, 10, 20, 40, 80, 80, 80]
    with pytest.raises(ValueError, match="first=9"):
        DoublingCurriculum(9, 8, 10)


def test_improved_consistency_training_goes_from_10_to_1280_intervals_in_eight_stages() -> None:
    curriculum = DoublingCurriculum(first=10, last=1280, steps=400_000)
    assert curriculum.period == 50_000
    assert [curriculum(50_000 * stage) for stage in range(8)] == [10 * 2**stage for stage in range(8)]


@pytest.mark.parametrize("step", [0, 1, 7, 3_000, 51_200, 399_999, 400_000])
def test_consistency_trainings_square_root_is_the_articles_formula(step: int) -> None:
    first, last, steps = 2, 150, 400_000
    points = math.ceil(math.sqrt(step / steps * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1
    assert SquareRootCurriculum(first, last, steps)(step) == points - 1


def test_the_square_root_curriculum_ends_with_its_last_value_and_stays_there() -> None:
    curriculum = SquareRootCurriculum(2, 150, 1000)
    counts = [curriculum(step) for step in range(1001)]
    assert (counts[0], counts[1000], curriculum(5000)) == (1, 150, 150)
    assert counts == sorted(counts)
    with pytest.raises(ValueError, match="first=1"):
        SquareRootCurriculum(1, 8, 10)


def test_a_constant_curriculum_needs_an_interval() -> None:
    assert ConstantCurriculum(18)(10**6) == 18
    with pytest.raises(ValueError, match="intervals=0"):
        ConstantCurriculum(0)


def test_the_targets_decay_is_its_first_value_at_the_first_curriculum_and_goes_to_one() -> None:
    decay = CurriculumDecay(first=2, decay=0.9)
    assert decay(1) == 0.9
    # μ = exp(s_0 ln μ_0 / N) with N points, one more than intervals.
    assert decay(150) == pytest.approx(math.exp(2 * math.log(0.9) / 151), rel=1e-12)
    assert ConstantDecay(0.5)(7) == 0.5
    for wrong in (lambda: ConstantDecay(1.0), lambda: CurriculumDecay(2, 1.0)):
        with pytest.raises(ValueError, match=r"decay=1\.0"):
            wrong()
