"""Interpolant matching: the minimisers are the exact velocity and noise; a network learns to go between two sets."""

from __future__ import annotations

import pytest
import torch
from tests.processes.interpolant_truth import FIRST, SECOND, D, ExactInterpolant
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.interpolant_matching import InterpolantNoiseMatching, InterpolantVelocityMatching
from isocline.processes.coupling import DataCoupling
from isocline.processes.stochastic_interpolant import StochasticInterpolant
from isocline.samplers.interpolant import InterpolantTransport
from isocline.solvers import RK4, ConstantSteps

INTERPOLANT = StochasticInterpolant(0.8, t_min=0.02)
KINDS = {"velocity": InterpolantVelocityMatching, "noise": InterpolantNoiseMatching}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Moved(nn.Module):
    """An exact prediction plus δ times a bounded function."""

    def __init__(self, exact, kind: str, delta: float) -> None:
        super().__init__()
        self.exact, self.kind, self.delta = exact, kind, delta

    def forward(self, t, x, cond=None):
        bump = torch.stack([torch.cos(3 * x[:, 0] + t), torch.sin(2 * x[:, 1]) * t], 1)
        return getattr(self.exact, self.kind)(t, x) + self.delta * bump


@pytest.mark.parametrize("kind", KINDS)
def test_the_conditional_mean_minimises_the_loss(kind: str) -> None:
    n = 40_000
    data = FIRST.sample(n, draws(1))
    objective = KINDS[kind](INTERPOLANT, DataCoupling(SECOND.sample(n, draws(2))))
    exact = ExactInterpolant(INTERPOLANT, FIRST, SECOND)
    below, least, above = (float(objective(Moved(exact, kind, d), Batch(data), draws(3)).total) for d in (-0.3, 0, 0.3))
    # A parabola around δ = 0: the two sides agree but for the noise of the draws, and both are above.
    assert min(below, above) > least + 0.01
    assert abs(below - above) < 0.3 * min(below - least, above - least)


def test_a_network_that_has_learned_it_carries_one_set_to_the_other() -> None:
    torch.manual_seed(0)
    first, second = FIRST.sample(4000, draws(1)).float(), SECOND.sample(4000, draws(2)).float()
    objective = InterpolantVelocityMatching(StochasticInterpolant(0.3, t_min=0.02), DataCoupling(second))

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

        def forward(self, t, x, cond=None):
            return self.layers(torch.cat([x, t.to(x.dtype).expand(len(x))[:, None]], 1))

    network, stream = Field(), draws(5)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(600):
        batch = first[torch.randint(len(first), (256,), generator=stream)]
        optimizer.zero_grad()
        objective(network, Batch(batch), stream).total.backward()
        optimizer.step()
    transport = InterpolantTransport(objective.interpolant, network)
    with torch.no_grad():
        carried = transport(first[:1000], RK4(), ConstantSteps(12)).final.to(D)
    before = (first[:1000].to(D).mean(0) - SECOND.mean).norm()
    assert float((carried.mean(0) - SECOND.mean).norm()) < 0.2 * float(before)
    assert float((carried.T.cov() - SECOND.covariance).norm()) < 0.35 * float(
        (FIRST.covariance - SECOND.covariance).norm()
    )
