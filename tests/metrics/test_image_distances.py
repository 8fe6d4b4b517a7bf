"""Fréchet and kernel distances, precision and recall, class balance, memorisation: closed forms and limits."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.metrics.class_balance import class_balance, class_shares
from isocline.metrics.frechet import FrechetDistance
from isocline.metrics.kernel_distance import kernel_distance
from isocline.metrics.memorisation import memorisation
from isocline.metrics.nearest_neighbours import nearest_squared_distances
from isocline.metrics.precision_recall import precision_recall


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(n, d, seed):
    """Features whose sample mean is exactly 0 and sample covariance exactly the identity."""
    x = draw(n, d, seed=seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T)).T)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    real, generated = whitened(500, 4, 0), whitened(400, 4, 1)
    scale = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    shift = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    expected = float(shift.square().sum() + (scale - 1).square().sum())
    assert FrechetDistance(real)(generated * scale + shift) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_handles_covariances_that_do_not_commute():
    real, generated = draw(300, 3, seed=2) @ draw(3, 3, seed=3), draw(300, 3, seed=4) @ draw(3, 3, seed=5)
    a, b = torch.cov(real.T), torch.cov(generated.T)
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).sqrt().sum()
    expected = (real.mean(0) - generated.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross
    assert FrechetDistance(real)(generated) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_distance_forgets_earlier_samples_and_keeps_the_reference():
    distance = FrechetDistance(draw(200, 5, seed=6))
    first = distance(draw(200, 5, seed=7))
    distance(draw(100, 5, seed=8) + 4)
    assert distance(draw(200, 5, seed=7)) == first


def test_frechet_distance_does_not_depend_on_float32_batches_of_features():
    generated = draw(256, 5, seed=9).float()
    distance = FrechetDistance(draw(200, 5, seed=6))
    assert distance(generated) == pytest.approx(distance(torch.cat(generated.split(31)[::-1])), rel=1e-10)


def test_frechet_distance_refuses_broken_features():
    with pytest.raises(ValueError, match="not finite"):
        FrechetDistance(torch.full((10, 3), math.nan))
    with pytest.raises(ValueError, match="width 2"):
        FrechetDistance(draw(10, 3))(draw(10, 2))


def test_kernel_distance_is_the_double_sum():
    x, y = draw(7, 3, seed=1), draw(5, 3, seed=2)

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    within_x = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_y = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(k(a, b) for a in x for b in y) / 35
    assert kernel_distance(x, y) == pytest.approx(within_x + within_y - 2 * across, rel=1e-10)


def test_kernel_distance_is_unbiased_for_equal_laws():
    values = torch.tensor([kernel_distance(draw(20, 4, seed=2 * s), draw(30, 4, seed=2 * s + 1)) for s in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert (values < 0).any()
    biased_by_diagonal = float((1 + draw(20, 4).square().sum(1) / 4).pow(3).mean() / 20)
    assert biased_by_diagonal > 6 * values.std() / 20


def test_kernel_distance_touches_no_global_random_state():
    before = torch.get_rng_state()
    kernel_distance(draw(10, 2), draw(10, 2, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_nearest_distances_agree_with_brute_force():
    x, y = draw(30, 3, seed=1), draw(40, 3, seed=2)
    brute = torch.cdist(x, y).square().sort(dim=1).values[:, :4]
    assert torch.allclose(nearest_squared_distances(x, y, 4), brute)


def test_a_row_is_not_its_own_neighbour():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert nearest_squared_distances(x, x, 1, same=True)[:, 0].tolist() == [1.0, 1.0, 4.0]
    with pytest.raises(ValueError, match="2 available"):
        nearest_squared_distances(x, x, 3, same=True)


def test_precision_and_recall_agree_with_their_definition():
    real, made, k = draw(40, 2), draw(50, 2, seed=1) + 1.0, 3

    def radius(x, i):
        return sorted(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i)[k - 1]

    real_radii, made_radii = [radius(real, i) for i in range(40)], [radius(made, i) for i in range(50)]
    inside = [[float((g - r).norm()) <= rad for r, rad in zip(real, real_radii, strict=True)] for g in made]
    recalled = [any(float((g - r).norm()) <= rad for g, rad in zip(made, made_radii, strict=True)) for r in real]
    result = precision_recall(real, made, k)
    assert result.precision == pytest.approx(sum(map(any, inside)) / 50)
    assert result.recall == pytest.approx(sum(recalled) / 40)
    assert result.density == pytest.approx(sum(map(sum, inside)) / (k * 50))
    assert result.coverage == pytest.approx(sum(map(any, zip(*inside, strict=True))) / 40)
    assert 0.2 < result.precision < 1.0
    assert 0.2 < result.recall < 1.0


def test_identical_sets_have_full_precision_recall_and_coverage():
    x = draw(100, 6)
    result = precision_recall(x, x.clone(), k=3)
    assert (result.precision, result.recall, result.coverage) == (1.0, 1.0, 1.0)


def test_far_sets_have_none():
    result = precision_recall(draw(100, 6), draw(100, 6, seed=1) + 100, k=3)
    assert tuple(result) == (0.0, 0.0, 0.0, 0.0)


def test_a_collapsed_set_is_precise_but_recalls_little():
    real = draw(200, 4)
    result = precision_recall(real, real.mean(0) + 0.05 * draw(200, 4, seed=1), k=3)
    assert result.precision > 0.95
    assert result.recall < 0.05
    assert result.coverage < 0.5


def test_density_counts_overlapping_balls():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    result = precision_recall(real, torch.tensor([[1.5], [1.5], [1.5]]), k=1)
    assert result.density == 2.0
    assert result.coverage == 0.5


def test_even_classes_have_the_entropy_of_the_uniform_law():
    balance = class_balance(torch.eye(4).repeat(5, 1), torch.full((4,), 0.25))
    assert balance.entropy == pytest.approx(math.log(4))
    assert balance.total_variation == 0.0


def test_one_class_alone_is_as_far_as_its_missing_share():
    logits = torch.zeros(10, 4)
    logits[:, 2] = 1.0
    balance = class_balance(logits, class_shares(torch.tensor([0, 1, 2, 3]), 4))
    assert balance.entropy == 0.0
    assert balance.total_variation == pytest.approx(0.75)


def images(n, seed):
    return torch.randint(256, (n, 1, 6, 6), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_copied_training_images_are_told():
    train, test = images(50, 0), images(50, 1)
    result = memorisation(train[:20], train, test)
    assert result.ratio == 0.0
    assert result.copies == 1.0


def test_fresh_images_are_as_far_as_the_test_set():
    result = memorisation(images(200, 2), images(100, 0), images(200, 1))
    assert result.ratio == pytest.approx(1.0, abs=0.02)
    assert result.copies == 0.0


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="quantise"):
        memorisation(torch.zeros(2, 1, 2, 2), images(5, 0), images(5, 1))
