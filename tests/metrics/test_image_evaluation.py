"""The evaluation of image models: paired noise, batch independence, seeds, the floor and the trajectory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from isocline.datasets.quantisation import to_uint8
from isocline.metrics.image_evaluation import draw_samples, evaluate_images
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.settings import ImageSettings
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.randomness import sample_noise
from isocline.samplers.consistency import ConsistencySampler

SHAPE = (1, 4, 4)


class PixelJudge:
    """Features are four block means; the class says which half of the image is brighter."""

    def features(self, images):
        return torch.nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)

    def classify(self, features):
        blocks = features.unflatten(1, (2, 2))
        return blocks.sum(1)


class Shrink:
    """Maps noise to noise scaled by 0.3, off by 1/nfe: exact as nfe grows; one step more is saved per evaluation."""

    def __init__(self):
        self.seen = []

    def sample(self, denoiser, x1, nfe, cond=None, generator=None, save_steps=False):
        self.seen.append((nfe, x1.clone(), cond))
        ts = torch.linspace(1, 0, nfe + 1, dtype=torch.float64) if save_steps else torch.zeros(1, dtype=torch.float64)
        ys = torch.stack([(t + (1 - t) * 0.3) * x1 + (1 - t) * denoiser / nfe for t in ts.float()])
        stats = SimpleNamespace(nfe=torch.full((len(x1),), nfe))
        return SimpleNamespace(ts=ts, ys=ys, final=ys[-1], stats=stats, raise_on_failure=lambda: None)


def real(count, seed):
    return to_uint8(0.3 * sample_noise(seed, "real", range(count), SHAPE))


@pytest.fixture(scope="module")
def reference():
    return ImageReference(PixelJudge(), real(400, 1), real(300, 2))


@pytest.fixture(scope="module")
def settings():
    return ImageSettings(
        samples=60, seeds=3, nfe=(1, 4, 16), batch_size=25, detail_nfe=(16,), grid=9, trajectory=2, trajectory_nfe=4
    )


@pytest.fixture(scope="module")
def result(reference, settings):
    return evaluate_images(1.0, Shrink(), reference, settings, 0)


def test_a_biased_sampler_gets_closer_as_evaluations_grow(result):
    frechet = {nfe: e.mean for nfe, e in result.estimates()["frechet"].items()}
    assert frechet[1] > frechet[4] > frechet[16]


def test_a_perfect_sampler_scores_the_floor(reference, settings):
    exact = evaluate_images(0.0, Shrink(), reference, settings, 0)
    found, floor = exact.estimates()["frechet"][16], exact.floor["frechet"]
    assert abs(found.mean - floor.mean) < 4 * (found.se**2 + floor.se**2) ** 0.5
    kernel = exact.estimates()["kernel"][16]
    assert abs(kernel.mean) < 10 * kernel.se


def test_every_seed_gives_one_value_and_details_come_at_their_budgets_only(result):
    assert {len(v) for curve in result.values.values() for v in curve.values()} == {3}
    assert set(result.values["recall"]) == {16}
    assert set(result.values["frechet"]) == {1, 4, 16}
    assert set(result.rates) == {1, 4, 16}
    assert result.values["spent_nfe"][4] == [4.0] * 3


def test_noise_is_the_same_at_every_budget_and_for_every_model(reference, settings):
    one, two = Shrink(), Shrink()
    evaluate_images(1.0, one, reference, settings, 0)
    evaluate_images(0.0, two, reference, settings, 0)
    starts = {nfe: torch.cat([x for n, x, _ in one.seen if n == nfe])[:180] for nfe in (1, 4, 16)}
    assert torch.equal(starts[1], starts[16])
    assert torch.equal(starts[1], torch.cat([x for n, x, _ in two.seen if n == 1]))
    assert not torch.equal(starts[1][:60], starts[1][60:120])


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_images_do_not_depend_on_the_batch_size(batch_size):
    def draw(size):
        return to_uint8(draw_samples(0.5, Shrink(), seed=3, count=20, nfe=2, shape=SHAPE, batch_size=size).samples)

    assert torch.equal(draw(batch_size), draw(20))


def test_noise_on_the_way_does_not_depend_on_the_batch_size_either():
    denoiser = Denoiser(Flat(), GaussianProcess(LinearSchedule(), VelocityPrediction()))

    def draw(size):
        sampler = ConsistencySampler()
        return to_uint8(draw_samples(denoiser, sampler, seed=3, count=10, nfe=4, shape=SHAPE, batch_size=size).samples)

    assert torch.equal(draw(3), draw(10))
    assert not torch.equal(draw(10)[:5], draw(10)[5:])


class Flat(torch.nn.Module):
    """A velocity that is the state."""

    def forward(self, t, x, cond=None):
        return 0.5 * x


def test_conditional_models_are_given_every_class_equally_often():
    sampler = Shrink()
    draw_samples(0.0, sampler, seed=0, count=10, nfe=1, shape=SHAPE, batch_size=4, classes=5)
    assert torch.cat([cond for _, _, cond in sampler.seen]).bincount().tolist() == [2] * 5


def test_the_trajectory_runs_from_the_grids_noise_to_its_images(result, settings):
    assert result.times.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert result.trajectory.shape == (5, 2, *SHAPE)
    assert torch.equal(result.trajectory[-1], result.grids[settings.nfe.index(4)][:2])
    assert result.grids.shape == (3, 9, *SHAPE)


class OneImage(Shrink):
    """Whatever the noise, the same image."""

    def sample(self, denoiser, x1, nfe, cond=None, generator=None, save_steps=False):
        solution = super().sample(denoiser, x1, nfe, cond, generator, save_steps)
        solution.ys = 0.3 * sample_noise(9, "one", range(1), SHAPE).expand_as(solution.ys)
        solution.final = solution.ys[-1]
        return solution


def test_a_sampler_that_draws_one_image_is_named_as_collapsed_and_a_perfect_one_is_not(reference, settings):
    one = evaluate_images(0.0, OneImage(), reference, settings, 0)
    found = one.collapsed()
    assert list(found) == [1, 4, 16]
    real = one.floor["recall"].mean
    assert found[16].startswith(f"recall 0.00 against {real:.2f}, class imbalance ")
    assert found[1].startswith("class imbalance ")  # recall is not measured there
    assert evaluate_images(0.0, Shrink(), reference, settings, 0).collapsed() == {}


def test_running_twice_gives_the_same_numbers(reference, settings, result):
    assert evaluate_images(1.0, Shrink(), reference, settings, 0).values == result.values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nfe": [4, 2]}, "rising order"),
        ({"nfe": [0]}, "at least 1"),
        ({"detail_nfe": [64]}, "detail_nfe holds 64"),
        ({"samples": "many"}, "samples = 'many'"),
        ({"metrics": {}}, "metrics is empty"),
    ],
)
def test_bad_settings_name_key_and_value(change, message):
    with pytest.raises(ValueError, match=message):
        ImageSettings(**change)
