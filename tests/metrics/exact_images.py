"""Images of four pixels whose flow is known, and a judge that looks at the pixels."""

from __future__ import annotations

import torch

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule

LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())


class Pixels:
    """A judge whose features are the pixels."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.double().flatten(1) / 128

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return features


class Flat(torch.nn.Module):
    """The exact network of a mixture of 4-pixel images."""

    def __init__(self) -> None:
        super().__init__()
        means = torch.tensor([[0.5, -0.5, 0.2, 0.0], [-0.5, 0.5, 0.0, 0.3]])
        self.mixture = GaussianMixture(torch.ones(2), means, torch.full((2, 4), 0.02))

    def forward(self, t, x, cond=None):
        flat = self.mixture.predict(LINEAR.schedule(t), x.flatten(1), VelocityPrediction())
        return flat.reshape(x.shape).to(x.dtype)
