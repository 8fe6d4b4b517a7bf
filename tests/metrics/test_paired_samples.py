"""Samplers set side by side: the same noise for all, one judge, one floor."""

from __future__ import annotations

import pytest
import torch
from tests.metrics.exact_images import LINEAR, Flat, Pixels

from isocline.datasets.quantisation import to_float
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.jackknife import feature_distance
from isocline.metrics.paired_samples import PairedSamples
from isocline.processes.denoiser import Denoiser
from isocline.samplers.adaptive import AdaptiveSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.controller import PIDController
from isocline.solvers.explicit import RK4, Bosh3


@pytest.fixture
def paired() -> PairedSamples:
    real = (torch.rand(2, 60, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    return PairedSamples(Denoiser(Flat(), LINEAR), ImageReference(Pixels(), *real), 0, 60, batch_size=25, groups=5)


def test_different_samplers_begin_at_the_same_noise_and_end_at_the_same_images(paired: PairedSamples) -> None:
    fixed = paired.draw(ContinuousSampler(RK4(), UniformTimeGrid(), LinearPathVariable()), 256)
    free = paired.draw(AdaptiveSampler(Bosh3(), PIDController(rtol=1e-5, atol=1e-5), LinearPathVariable()), 4000)
    torch.testing.assert_close(fixed.samples, free.samples, atol=2e-3, rtol=0)
    assert fixed.evaluations.tolist() == [256] * 60
    assert free.evaluations.shape == (60,)
    assert free.nfe == int(free.evaluations.max()) > int(free.evaluations.min())


def test_the_floor_of_the_whole_training_split_is_its_own_distance(paired: PairedSamples) -> None:
    real, test = paired.reference.train, paired.reference.test
    floor = paired.floor()
    assert floor.estimate.mean == pytest.approx(feature_distance(test.features)(real.features))
    assert paired.frechet(to_float(real.images)).estimate.mean == pytest.approx(floor.estimate.mean)
