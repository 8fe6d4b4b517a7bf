"""Point sets: their laws, their splits, their scale."""

from __future__ import annotations

import pytest
import torch

from isocline.datasets.points import BreastCancer, Checkerboard, DigitComponents, EightGaussians, TwoMoons
from isocline.datasets.splits import split_rows

ALL = [TwoMoons(400), EightGaussians(400), Checkerboard(400), DigitComponents(6), BreastCancer()]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dataset", ALL, ids=lambda d: d.name)
def test_the_scaled_training_split_has_mean_zero_and_variance_one(dataset) -> None:
    raw = dataset.load(draws())
    rows = split_rows(len(raw), {"train": None, "test": 100}, draws(1))
    train = dataset.fit(raw[rows["train"]])(raw[rows["train"]])
    torch.testing.assert_close(train.mean(0), torch.zeros_like(train[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(train.std(0), torch.ones_like(train[0]))
    assert torch.equal(dataset.load(draws()), raw)


def test_components_are_uncorrelated_and_of_falling_spread() -> None:
    dataset = DigitComponents(5)
    raw = dataset.load(draws())
    scale = dataset.fit(raw)
    torch.testing.assert_close(torch.cov(scale(raw).mT), torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    spreads = 1.0 / scale.matrix.norm(dim=0)
    assert (spreads.diff() < 0).all()


def test_moons_lie_on_their_half_circles_and_gaussians_on_theirs() -> None:
    moons = TwoMoons(500, noise=1e-6).load(draws())
    upper, lower = (moons - c for c in (torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5])))
    on = torch.minimum((upper.norm(dim=1) - 1).abs(), (lower.norm(dim=1) - 1).abs())
    assert on.max() < 1e-4
    assert 150 < ((upper.norm(dim=1) - 1).abs() < 1e-4).sum() < 350
    assert ((EightGaussians(500, 4.0, 1e-6).load(draws()).norm(dim=1) - 4).abs() < 1e-4).all()


def test_a_checkerboard_fills_the_squares_of_one_colour_evenly() -> None:
    x = Checkerboard(4000).load(draws())
    cells = x.floor().long() + 2
    assert (cells.min(), cells.max()) == (0, 3)
    assert (cells.sum(1) % 2).unique().numel() == 1
    counts = (4 * cells[:, 0] + cells[:, 1]).unique(return_counts=True)[1]
    assert len(counts) == 8
    assert counts.min() > 400


def test_splits_are_disjoint_and_seeded() -> None:
    rows = split_rows(10, {"train": None, "test": 3}, draws())
    assert sorted([*rows["train"].tolist(), *rows["test"].tolist()]) == list(range(10))
    assert torch.equal(split_rows(10, {"train": None, "test": 3}, draws())["test"], rows["test"])
    assert not torch.equal(split_rows(10, {"train": None, "test": 3}, draws(1))["test"], rows["test"])


@pytest.mark.parametrize("sizes", [{"train": 9, "test": 3}, {"train": 0}, {"train": None, "test": None}])
def test_splits_that_cannot_be_drawn_are_refused(sizes) -> None:
    with pytest.raises(ValueError, match="split"):
        split_rows(10, sizes, draws())


def test_values_out_of_range_are_refused() -> None:
    for make in (lambda: TwoMoons(1), lambda: TwoMoons(9, noise=0.0), lambda: DigitComponents(1)):
        with pytest.raises(ValueError, match=r"must be|at least"):
            make()
