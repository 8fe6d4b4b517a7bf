"""Student and target draw the same dropout masks, and the streams go on as if only one of them had drawn."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR

from isocline.datasets.batch import Batch
from isocline.distillation.consistency import ConsistencyMatching
from isocline.distillation.curriculum import ConstantCurriculum
from isocline.distillation.previous_state import SameNoise
from isocline.distillation.shared_dropout import SharedDropout
from isocline.distillation.target_network import AveragedTarget, StoppedStudent
from isocline.distillation.time_pairs import GridPairs

CPU = torch.device("cpu")


class Masked(torch.nn.Module):
    """Keeps what its dropout let through at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.bias = torch.nn.Parameter(torch.zeros(2))
        self.seen: list[torch.Tensor] = []

    def forward(self, t, x, cond=None):
        mask = self.dropout(torch.ones_like(x))
        self.seen.append(mask)
        return mask * self.bias


def test_a_replay_repeats_the_draws_and_leaves_the_streams_where_they_were() -> None:
    torch.manual_seed(0)
    shared = SharedDropout(CPU)
    first = torch.rand(5)
    before = torch.get_rng_state()
    with shared.replayed():
        assert torch.equal(torch.rand(5), first)
        torch.rand(100)
    assert torch.equal(torch.get_rng_state(), before)
    with contextlib.suppress(RuntimeError), shared.replayed():
        raise RuntimeError(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replay_repeats_the_devices_draws_too() -> None:
    device = torch.device("cuda")
    shared = SharedDropout(device)
    first = torch.rand(5, device=device)
    with shared.replayed():
        assert torch.equal(torch.rand(5, device=device), first)
    assert not torch.equal(torch.rand(5, device=device), first)


@pytest.mark.parametrize("target", [StoppedStudent, AveragedTarget])
def test_student_and_target_share_their_masks_and_a_next_batch_has_others(target) -> None:
    torch.manual_seed(0)
    objective = ConsistencyMatching(
        LINEAR, torch.nn.Linear(1, 1), SameNoise(), GridPairs(ConstantCurriculum(4)), target()
    )
    student = Masked().train()
    objective.prepare(student)
    objective.train()
    batch = Batch(GAUSSIAN.sample(64, torch.Generator().manual_seed(1)).float())
    for _ in range(2):
        objective(student, batch, torch.Generator().manual_seed(2))
    average = objective.target.network(student)
    first, second = student.seen[0], student.seen[-1 if average is not student else 2]
    others = average.seen if average is not student else [student.seen[1], student.seen[3]]
    assert torch.equal(first, others[0])
    assert torch.equal(second, others[1])
    assert not torch.equal(first, second)
    assert 0 < int((first == 0).sum()) < first.numel()
