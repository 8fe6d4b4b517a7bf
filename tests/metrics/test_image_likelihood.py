"""Bits per dimension of a source whose law is known."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.datasets.quantisation import to_uint8
from isocline.metrics.image_likelihood import image_likelihood
from isocline.metrics.settings import LikelihoodSettings
from isocline.objectives.likelihood import ProbabilityFlowLikelihood
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule

SCALE = 0.25


class ExactVelocity(torch.nn.Module):
    """Velocity of the linear path for data N(0, SCALE^2)."""

    def forward(self, t, x, cond=None):
        a, s = 1 - t, t
        ratio = (s - a * SCALE**2) / (a**2 * SCALE**2 + s**2)
        return x * ratio.to(x).reshape(-1, *[1] * (x.ndim - 1))


@pytest.fixture
def denoiser():
    return Denoiser(ExactVelocity(), GaussianProcess(LinearSchedule(), VelocityPrediction()))


def images(count):
    return to_uint8(SCALE * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0)))


def test_bits_per_dimension_of_a_gaussian_source_is_its_entropy(denoiser):
    settings = LikelihoodSettings(images=200, batch_size=64, draws=1)
    found = image_likelihood(denoiser, images(300), ProbabilityFlowLikelihood(steps=24), settings, 0)
    entropy = 0.5 * math.log(2 * math.pi * math.e * SCALE**2) / math.log(2) + 7
    assert found["n"] == 200
    assert found["kind"] == "bound"
    assert abs(found["mean"] - entropy) < 4 * found["se"]
    assert found["se"] < 0.05


def test_fewer_images_than_asked_are_all_used(denoiser):
    settings = LikelihoodSettings(images=50, batch_size=8)
    assert image_likelihood(denoiser, images(11), ProbabilityFlowLikelihood(steps=2), settings, 0)["n"] == 11


def test_a_conditional_network_without_labels_is_refused(denoiser):
    with pytest.raises(ValueError, match="labels"):
        image_likelihood(denoiser, images(4), ProbabilityFlowLikelihood(), LikelihoodSettings(), 0, classes=10)
