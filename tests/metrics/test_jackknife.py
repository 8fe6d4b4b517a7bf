"""The jackknife against closed forms, and the fast Fréchet distance against torchmetrics'."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.metrics.frechet import FrechetDistance
from isocline.metrics.jackknife import delete_group_jackknife, feature_distance


def test_of_a_mean_it_is_the_standard_error_of_the_groups_means() -> None:
    x = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = delete_group_jackknife(lambda part: float(part.mean()), x, 6)
    means = torch.stack([x[g::6].mean() for g in range(6)])
    assert found.estimate.mean == pytest.approx(float(x.mean()))
    assert found.estimate.se == pytest.approx(float(means.std()) / math.sqrt(6))
    assert found.values == pytest.approx(means.tolist())


def test_values_average_to_the_statistic_also_where_it_is_biased() -> None:
    x = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = delete_group_jackknife(lambda part: float(part.mean()) ** 2, x, 5)
    assert sum(found.values) / 5 == pytest.approx(found.estimate.mean)


def test_the_distance_is_that_of_torchmetrics() -> None:
    random = torch.Generator().manual_seed(2)
    real = torch.randn(90, 6, generator=random) @ torch.randn(6, 6, generator=random)
    made = torch.randn(70, 6, generator=random) + 0.3
    assert feature_distance(real)(made) == pytest.approx(FrechetDistance(real)(made), rel=1e-8)


@pytest.mark.parametrize("groups", [1, 6])
def test_groups_that_cannot_be_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"groups={groups}"):
        delete_group_jackknife(lambda part: 0.0, torch.zeros(10), groups)
