"""Reflow is matching on the pairs that a flow made."""

from __future__ import annotations

import pytest
import torch
from tests.distillation.known_flow import LINEAR

from isocline.datasets.batch import Batch
from isocline.distillation.reflow import Reflow
from isocline.objectives.matching import DenoisingMatching
from isocline.objectives.time_sampling import StratifiedTimes
from isocline.processes.coupling import PairedCoupling


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_reflow_is_matching_on_the_pairs() -> None:
    x0, x1 = torch.randn(8, 2, generator=draws(1)), torch.randn(8, 2, generator=draws(2))
    network = torch.nn.Linear(2, 2)

    class Student(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return network(x)

    found = Reflow(LINEAR, torch.nn.Linear(1, 1))(Student(), Batch(x0, None, x1), draws(3))
    plain = DenoisingMatching(LINEAR, times=StratifiedTimes(), coupling=PairedCoupling())
    assert torch.equal(found.total, plain(Student(), Batch(x0, None, x1), draws(3)).total)
    with pytest.raises(ValueError, match="x1"):
        Reflow(LINEAR, torch.nn.Linear(1, 1))(Student(), Batch(x0), draws(3))
