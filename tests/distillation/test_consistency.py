"""Consistency models against exact flows: fixed points, boundary, targets, resumption, and what students learn."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.distillation.known_flow import (
    GAUSSIAN,
    LINEAR,
    D,
    GaussianMap,
    Student,
    map_error,
    teacher,
    train,
)

from isocline.datasets.batch import Batch
from isocline.distillation.consistency import ConsistencyMatching
from isocline.distillation.curriculum import ConstantCurriculum, DoublingCurriculum, SquareRootCurriculum
from isocline.distillation.destination import DataDestination, PhaseDestination, RandomDestination
from isocline.distillation.distance import SquaredDistance
from isocline.distillation.interval_law import LogNormalIntervals
from isocline.distillation.pair_weighting import InverseGapWeighting
from isocline.distillation.previous_state import SameNoise, TeacherStep
from isocline.distillation.target_decay import CurriculumDecay
from isocline.distillation.target_network import AveragedTarget, StoppedStudent
from isocline.distillation.time_pairs import GridPairs, ShrinkingPairs
from isocline.networks.ema import ExponentialMovingAverage
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction, NoisePrediction
from isocline.processes.probability_flow import AngleVariable, NoiseRatioVariable, TimeVariable
from isocline.processes.schedule import VESchedule, VPLinearSchedule
from isocline.samplers.consistency import ConsistencySampler
from isocline.samplers.flow_map import FlowMapSampler
from isocline.samplers.guidance import ClassifierFreeGuidance
from isocline.solvers.explicit import Dopri8, Euler, Heun
from isocline.training.module import GenerativeModule

DESTINATIONS = [DataDestination(), RandomDestination(), PhaseDestination(4)]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matching(intervals: int, **parts) -> ConsistencyMatching:
    """On the Gaussian, whose flow map is known in closed form."""
    pairs = GridPairs(ConstantCurriculum(intervals))
    parts = {"target": StoppedStudent(), "distance": SquaredDistance(), **parts}
    return ConsistencyMatching(LINEAR, GAUSSIAN.network(LINEAR), pairs=pairs, **parts)


@pytest.mark.parametrize("destination", DESTINATIONS, ids=lambda d: type(d).__name__)
def test_the_exact_flow_map_has_no_loss_where_the_teachers_step_is_exact(destination) -> None:
    objective = matching(16, previous=TeacherStep(Dopri8()), destination=destination)
    loss = objective(GaussianMap(), Batch(GAUSSIAN.sample(2000, draws(1))), draws(2))
    assert loss.total.item() < 1e-20
    wrong = GaussianMap(bias=0.1)
    loss = objective(wrong, Batch(GAUSSIAN.sample(2000, draws(1))), draws(2))
    loss.total.backward()
    assert loss.total.item() > 1e-6
    assert wrong.bias.grad.item() > 0


@pytest.mark.parametrize(("stepper", "order"), [(Euler(), 1), (Heun(), 2)], ids=["euler", "heun"])
def test_the_exact_flow_map_is_a_fixed_point_as_the_intervals_shrink(stepper, order: int) -> None:
    data, student = GAUSSIAN.sample(4000, draws(1)), GaussianMap(end=0.0)
    losses = []
    for intervals in (8, 32, 128):
        loss = matching(intervals, previous=TeacherStep(stepper))(student, Batch(data), draws(2))
        losses.append(loss.total.item() ** 0.5)
    # A local error of order p + 1 in steps four times as short.
    for before, after in itertools.pairwise(losses):
        assert before / after > 0.75 * 4 ** (order + 1) / 2
    assert losses[-1] < 1e-3


class Stretched(GaussianMap):
    """The exact consistency function with a slope in x that may be learnt; 0 is the truth."""

    def __init__(self) -> None:
        super().__init__(end=0.0)
        self.slope = torch.nn.Parameter(torch.zeros((), dtype=D))

    def forward(self, t, x, cond=None, s=None):
        return super().forward(t, x) - self.slope * x


def test_the_floor_of_consistency_training_is_a_variance_that_falls_with_the_square_of_the_intervals() -> None:
    data, student = GAUSSIAN.sample(200_000, draws(1)), Stretched()
    floors, pulls = [], []
    for intervals in (4, 16, 64):
        student.slope.grad = None
        loss = matching(intervals, previous=SameNoise())(student, Batch(data), draws(2))
        loss.total.backward()
        floors.append(loss.total.item() ** 0.5)
        pulls.append(abs(student.slope.grad.item()))
    # A single pair of the same noise is off by O(Δt): that is the floor of the loss at the exact map.
    for before, after in itertools.pairwise(floors):
        assert before / after == pytest.approx(4, rel=0.15)
    # On average over the data it is off by O(Δt²) only: the gradient at the exact map dies away faster.
    assert pulls[0] / pulls[1] > 8
    assert pulls[2] < 0.05 * floors[2]


def test_the_teachers_step_may_be_taken_in_a_scaled_state() -> None:
    data, student = GAUSSIAN.sample(4000, draws(1)), GaussianMap(end=0.0)
    objective = matching(64, previous=TeacherStep(Heun(), AngleVariable()))
    assert objective(student, Batch(data), draws(2)).total.item() ** 0.5 < 1e-3


class Garbage(torch.nn.Module):
    """Whatever the truth, it says 123."""

    def forward(self, t, x, cond=None):
        return torch.full_like(x, 123.0)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_the_boundary_is_exact(t: float) -> None:
    x = torch.randn(5, 2, generator=draws())
    times = torch.full((5,), t, dtype=D)
    assert torch.equal(flow_map(Denoiser(Garbage(), LINEAR), times, times, x), x)


@pytest.mark.parametrize(("destination", "intervals"), [(DataDestination(), 1), (PhaseDestination(4), 4)])
def test_a_target_at_its_destination_is_the_teachers_state_whatever_the_target_network_says(
    destination, intervals: int
) -> None:
    objective = matching(intervals, destination=destination, target=AveragedTarget())
    objective.target.average = Garbage()
    # One Euler step of the teacher from edge to edge: what the map of the teacher itself does.
    loss = objective(GAUSSIAN.network(LINEAR), Batch(GAUSSIAN.sample(50, draws(3))), draws(4))
    assert float(loss.total) == pytest.approx(0.0, abs=1e-20)


def test_a_pair_across_the_edge_of_a_phase_is_cut_off_there_and_no_map_leads_back_to_noise() -> None:
    class Watched(GaussianMap):
        def forward(self, t, x, cond=None, s=None):
            assert bool((s <= t).all())
            ends.append(s)
            return super().forward(t, x, cond, s)

    ends: list[torch.Tensor] = []
    # Seven intervals on four phases: some reach from one phase into the next.
    objective = matching(7, previous=TeacherStep(Dopri8()), destination=PhaseDestination(4))
    loss = objective(Watched(), Batch(GAUSSIAN.sample(500, draws(1))), draws(2))
    # The rest is the error of one step of eighth order over a seventh of the flow, 1e-9 in the state.
    assert loss.total.item() < 1e-16
    assert len(ends) == 2
    assert torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(
    ("process", "parts", "match"),
    [
        (GaussianProcess(LINEAR.schedule, DataPrediction()), {}, "predicts data"),
        (GaussianProcess(VESchedule(), NoisePrediction()), {}, "VESchedule"),
        (
            GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3),
            {"previous": TeacherStep(variable=TimeVariable())},
            "t_min",
        ),
    ],
)
def test_a_boundary_that_cannot_hold_is_an_error(process, parts, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ConsistencyMatching(process, torch.nn.Linear(1, 1), **parts)


@pytest.mark.parametrize("destination", DESTINATIONS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("previous", [TeacherStep(variable=NoiseRatioVariable()), SameNoise()])
def test_a_noise_prediction_with_a_least_time_is_distilled_too(previous, destination) -> None:
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
    network = GAUSSIAN.network(process)
    objective = ConsistencyMatching(
        process, network, previous, weighting=InverseGapWeighting(), destination=destination
    )
    loss = objective(network, Batch(GAUSSIAN.sample(64, draws()).float()), draws(1))
    assert loss.total.isfinite()
    assert float(loss.terms["intervals"]) == 8


def test_guidance_around_the_teacher_is_built_into_the_student() -> None:
    class Labelled(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return x * 0 + (0.0 if cond is None else cond.reshape(-1, 1).to(x.dtype))

    labels, x0 = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 2)
    step = TeacherStep(guide=lambda denoiser: ClassifierFreeGuidance(denoiser, 3.0))
    path = LINEAR.sample(x0, torch.ones(3, 2), torch.full((3,), 0.75, dtype=D))
    moved = step(Denoiser(Labelled(), LINEAR), path, torch.full((3,), 0.5, dtype=D), labels)
    # dx = −Δt (u + s (c − u)) with u = 0 and c the label.
    torch.testing.assert_close(moved, path.x - 0.25 * 3 * labels[:, None])


def test_the_target_follows_the_student_with_its_decay_from_where_the_student_began() -> None:
    first, student = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(student.weight, 3.0)
    student.running_mean.fill_(5.0)
    objective = matching(7, target=AveragedTarget(CurriculumDecay(first=4, decay=0.25)))
    objective.prepare(first)
    objective.after_step(student, 1)
    # μ = 0.25^{4/(7 + 1)} = 1/2.
    torch.testing.assert_close(objective.target.average.weight, torch.full((2,), 0.5 + 0.5 * 3))
    assert torch.equal(objective.target.average.running_mean, student.running_mean)
    torch.testing.assert_close(first.weight, torch.ones(2))
    assert not any(p.requires_grad for p in objective.parameters())


@pytest.mark.parametrize("target", [StoppedStudent, AveragedTarget])
def test_a_resumed_run_goes_on_with_its_target_and_its_curriculum(target) -> None:
    def fresh() -> GenerativeModule:
        pairs = GridPairs(DoublingCurriculum(2, 16, 40))
        objective = ConsistencyMatching(LINEAR, teacher(), pairs=pairs, target=target())
        return GenerativeModule(Student(), objective, torch.optim.SGD, ExponentialMovingAverage, seed=0, steps=40)

    first, moved = fresh(), Student(seed=1)
    for step in range(1, 26):
        first.objective.after_step(moved, step)
    second = fresh()
    second.load_state_dict(first.state_dict())
    batch = Batch(torch.randn(16, 2, generator=draws(1)))
    losses = [module.objective(moved, batch, draws(2)) for module in (first, second)]
    assert torch.equal(losses[0].total, losses[1].total)
    assert float(losses[1].terms["intervals"]) == 8
    kept = {key for key in first.objective.state_dict() if not key.startswith("target.")}
    assert kept == {"teacher_evaluations", "_extra_state"}


def test_the_teacher_is_frozen_hidden_and_moves_with_the_objective() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
    objective = ConsistencyMatching(LINEAR, network).train()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    objective.double()
    assert network[0].weight.dtype == D


@pytest.mark.parametrize(("previous", "calls"), [(TeacherStep(Euler()), 1), (TeacherStep(Heun()), 2), (SameNoise(), 0)])
def test_what_is_asked_of_the_teacher_is_its_steps_stages_and_nothing_from_data(previous, calls: int) -> None:
    objective = ConsistencyMatching(LINEAR, teacher(), previous)
    objective(Student(), Batch(GAUSSIAN.sample(32, draws()).float()), draws(1))
    assert objective.evaluations() == 32 * calls


STEPS = 800
LEARNT = {
    "cd": (
        {"previous": TeacherStep(Heun()), "pairs": GridPairs(DoublingCurriculum(4, 32, STEPS))},
        ConsistencySampler(), 1, 0.2,
    ),
    "ct": (
        {
            "previous": SameNoise(),
            "pairs": GridPairs(SquareRootCurriculum(2, 20, STEPS)),
            "target": AveragedTarget(CurriculumDecay(2, 0.5)),
        },
        ConsistencySampler(), 1, 0.5,
    ),
    "ict": (
        {
            "previous": SameNoise(),
            "pairs": GridPairs(DoublingCurriculum(10, 80, STEPS), LogNormalIntervals(0.0, 2.0)),
            "target": StoppedStudent(),
            "weighting": InverseGapWeighting(),
        },
        ConsistencySampler(), 1, 0.5,
    ),
    "ect": (
        {
            "previous": SameNoise(),
            "pairs": ShrinkingPairs(STEPS, stages=7),
            "target": StoppedStudent(),
            "weighting": InverseGapWeighting(),
        },
        ConsistencySampler(), 1, 0.5,
    ),
    "tcd": (
        {
            "previous": TeacherStep(Heun()),
            "pairs": GridPairs(DoublingCurriculum(4, 32, STEPS)),
            "destination": RandomDestination(),
        },
        FlowMapSampler(), 2, 0.2,
    ),
    "pcm": (
        {
            "previous": TeacherStep(Heun()),
            "pairs": GridPairs(DoublingCurriculum(4, 32, STEPS)),
            "destination": PhaseDestination(4),
        },
        FlowMapSampler(), 4, 0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", LEARNT)
def test_a_student_approaches_the_exact_map(method: str) -> None:
    parts, sampler, nfe, bound = LEARNT[method]
    objective = ConsistencyMatching(LINEAR, teacher(), **{"distance": SquaredDistance(), **parts})
    student = train(objective, Student(takes_end=method == "tcd"), steps=STEPS)
    with torch.no_grad():
        error = map_error(lambda x: sampler.sample(Denoiser(student, LINEAR), x, nfe, generator=draws()).final)
        start = map_error(lambda x: sampler.sample(Denoiser(teacher(), LINEAR), x, nfe, generator=draws()).final)
    print(f"{method}: {error:.3f} in {nfe}, the teacher's own steps {start:.3f}")
    assert error < bound
