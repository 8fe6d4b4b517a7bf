"""Collapse is named by what shows it, with both numbers."""

from __future__ import annotations

import pytest

from isocline.metrics.collapse import Diversity, collapse

TEACHER = Diversity(recall=0.8, imbalance=0.1)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (Diversity(0.8, 0.1), ()),
        (Diversity(0.41, 0.34), ()),
        (Diversity(0.39, 0.1), ("recall 0.39 against 0.80",)),
        (Diversity(0.8, 0.36), ("class imbalance 0.36 against 0.10",)),
        (Diversity(0.0, 0.9), ("recall 0.00 against 0.80", "class imbalance 0.90 against 0.10")),
        (Diversity(None, 0.9), ("class imbalance 0.90 against 0.10",)),
        (Diversity(), ()),
    ],
)
def test_half_the_recall_or_a_quarter_more_in_the_wrong_class_is_a_collapse(found, named):
    assert collapse(found, TEACHER) == named


def test_a_bad_reference_flags_nobody_who_is_no_worse():
    assert collapse(Diversity(0.02, 0.9), Diversity(0.03, 0.9)) == ()
    assert collapse(Diversity(0.0, 1.0), Diversity()) == ()
