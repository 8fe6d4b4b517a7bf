"""Labelled Gaussian mixtures: exact conditional and unconditional predictions, and the exact classifier."""

from __future__ import annotations

import torch

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture

D = torch.float64
PRIOR = torch.tensor([0.3, 0.7], dtype=D)
CLASSES = (
    GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[2.0, 1.0], [2.0, -1.0]]), torch.full((2, 2), 0.05)),
    GaussianMixture(torch.ones(1), torch.tensor([[-1.5, 0.2]]), torch.tensor([[0.1, 0.3]])),
)
ALL = GaussianMixture(
    torch.tensor([0.15, 0.15, 0.7]),
    torch.cat([part.means for part in CLASSES]),
    torch.cat([part.variances for part in CLASSES]),
)


class Labelled(torch.nn.Module):
    """The exact prediction given a label, and without one the whole mixture's; counts the forwards of a sample."""

    def __init__(self, process: GaussianProcess) -> None:
        super().__init__()
        self.process = process
        self.calls = 0

    def forward(self, t, x, cond=None):
        self.calls += 1
        values, to = self.process.schedule(t), self.process.prediction
        if cond is None:
            return ALL.predict(values, x, to).to(x.dtype)
        parts = torch.stack([part.predict(values, x, to) for part in CLASSES])
        return parts[cond, torch.arange(len(x))].to(x.dtype)


class Classifier:
    """ln p_t(y) + ln p_t(x | y), the exact logits."""

    def __init__(self, process: GaussianProcess) -> None:
        self.process = process

    def __call__(self, t, x):
        values = self.process.schedule(t)
        parts = [PRIOR[k].log() + part.log_density(values, x) for k, part in enumerate(CLASSES)]
        return torch.stack(parts, dim=1)
