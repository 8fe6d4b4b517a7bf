"""What every distiller does: it holds a frozen teacher and counts what is asked of it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Distiller, Loss


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, t: Tensor, x: Tensor, cond: object = None) -> Tensor:
        return self.linear(x) * torch.as_tensor(t).to(x).reshape(-1, 1)


class TwoCalls(Distiller):
    """One call with a gradient graph, one without, and one to a copy that is not the teacher."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__(teacher)
        self.target = copy.deepcopy(teacher)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        t = torch.rand(len(batch.x0), generator=generator)
        with torch.no_grad():
            wanted = self.teacher(t, batch.x0) + self.target(t, batch.x0)
        total = (network(t, self.teacher(t, batch.x0)) - wanted).square().mean()
        return Loss(total, {})


def ask(distiller: Distiller, student: nn.Module, rows: int, times: int = 1) -> None:
    for _ in range(times):
        batch = Batch(torch.randn(rows, 2))
        distiller(student, batch, torch.Generator().manual_seed(0)).total.backward()


def test_the_teachers_evaluations_are_samples_times_forwards_and_those_of_others_are_not_counted() -> None:
    distiller, student = TwoCalls(Field()), Field()
    ask(distiller, student, rows=5, times=3)
    assert distiller.evaluations() == 2 * 5 * 3
    assert distiller.evaluations() == 2 * 5 * 3
    assert distiller.teacher_evaluations.dtype == torch.int64


def test_the_count_survives_a_resume_and_the_teacher_stays_out_of_the_state() -> None:
    first, student = TwoCalls(Field()), Field()
    ask(first, student, rows=4)
    state = copy.deepcopy(first.state_dict())
    assert int(state["teacher_evaluations"]) == 8
    assert {key for key in state if not key.startswith("target.")} == {"teacher_evaluations"}
    resumed = TwoCalls(Field())
    ask(resumed, student, rows=7)  # what a run does before its checkpoint is loaded is not part of it
    resumed.load_state_dict(state)
    ask(resumed, student, rows=4)
    assert resumed.evaluations() == 16


def test_a_call_under_a_forward_derivative_counts_once() -> None:
    distiller = TwoCalls(Field())
    t, x = torch.rand(6), torch.randn(6, 2)
    _, tangent = torch.func.jvp(lambda y: distiller.teacher(t, y), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, distiller.teacher.linear(torch.ones(6, 2)) * t[:, None] - bias(distiller, t))
    assert distiller.evaluations() == 6


def bias(distiller: Distiller, t: Tensor) -> Tensor:
    offset: Tensor = distiller.teacher.linear.bias * t[:, None]  # type: ignore[union-attr, operator]
    return offset


def test_distillers_that_share_a_teacher_count_it_both_but_not_the_teacher_of_another_round() -> None:
    teacher = Field()
    first, second = TwoCalls(teacher), TwoCalls(teacher)
    ask(first, Field(), rows=3)
    assert (first.evaluations(), second.evaluations()) == (6, 6)
    first.count_as_teacher(first.target)
    ask(first, Field(), rows=3)
    assert (first.evaluations(), second.evaluations()) == (6 + 9, 6 + 6)


def test_a_forgotten_distiller_leaves_its_teacher_usable_and_copyable() -> None:
    teacher = Field()
    distiller = TwoCalls(teacher)
    del distiller
    assert torch.equal(
        copy.deepcopy(teacher)(torch.ones(2), torch.ones(2, 2)), teacher(torch.ones(2), torch.ones(2, 2))
    )
