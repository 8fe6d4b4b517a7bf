"""Names and values that MLflow takes."""

from __future__ import annotations

from isocline.tracking.limits import allowed, shorten


def test_long_values_are_cut_but_stay_different() -> None:
    first, second = shorten("x" * 7000 + "a", 6000), shorten("x" * 7000 + "b", 6000)
    assert len(first) == len(second) == 6000
    assert first != second
    assert shorten("short", 6000) == "short"


def test_forbidden_characters_of_names_are_replaced() -> None:
    assert allowed("stage.train@flow") == "stage.train:flow"
