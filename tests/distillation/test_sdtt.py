"""Self-distillation through time: its target, its fixed points, its rounds."""

import copy
import itertools

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.divergence import ForwardKL, ReverseKL
from isocline.distillation.sdtt import SelfDistillationThroughTime
from isocline.networks.transformer import TokenTransformer
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival

KERNEL = AbsorbingKernel(4, LinearSurvival())


def law():
    return EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))


def transformer():
    network = TokenTransformer(4, 3, 16, 1, 2)
    nn.init.normal_(network.bias)
    return network


def test_the_target_is_frozen_where_the_teacher_revealed_and_its_second_thought_elsewhere():
    seen = []

    def logits(t, z, cond=None):
        seen.append((t.clone(), z.clone()))
        return torch.full((*z.shape, 4), 0.0) + torch.tensor([1.0, 0.0, 0.0, 0.0]) * len(seen)

    teacher = nn.Identity()
    teacher.forward = logits
    objective = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=4)
    z = torch.full((200, 3), 3)
    z[:, 2] = 1
    t = torch.full((200,), 0.5, dtype=torch.float64)
    target = objective.target(z, t, 0.25, torch.Generator().manual_seed(0))
    (first_t, first_z), (second_t, between) = seen
    assert (first_t == 0.5).all()
    assert (second_t == 0.25).all()
    assert torch.equal(first_z, z)
    revealed = (between != 3) & (z == 3)
    assert 0.4 < revealed[:, :2].double().mean() < 0.6
    one, two = (torch.tensor([k, 0.0, 0.0]).log_softmax(-1) for k in (1.0, 2.0))
    torch.testing.assert_close(target[revealed][:, :3], one.expand(int(revealed.sum()), -1))
    torch.testing.assert_close(target[between == 3][:, :3], two.expand(int((between == 3).sum()), -1))
    assert (target[:, 2, 1] == 0).all()


def test_a_teacher_that_never_changes_its_mind_is_its_own_student():
    """Independent positions: seeing one more token tells nothing, so the loss of the teacher itself is zero."""
    product = torch.einsum("i,j->ij", torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.6]))
    teacher = EnumeratedDenoiser(EnumeratedLaw(product), KERNEL)
    objective = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=4)
    loss = objective(teacher, Batch(torch.zeros(50, 2).long()), torch.Generator().manual_seed(0))
    assert loss.total.abs() < 1e-12


def test_the_exact_denoiser_is_the_minimum_of_the_forward_divergence_but_not_of_the_reverse():
    truth = law()
    teacher = EnumeratedDenoiser(truth, KERNEL)
    # From the all-masked state a student is one law per position.
    start = torch.full((4000, 3), 3)
    t = torch.ones(4000, dtype=torch.float64)
    objective = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=2)
    target = objective.target(start, t, 0.5, torch.Generator().manual_seed(0))[..., :3]
    exact = teacher(t[:1], start[:1])[..., :3]
    torch.testing.assert_close(target.exp().mean(0), exact[0].exp(), rtol=0.05, atol=0.02)
    geometric = target.mean(0, keepdim=True).log_softmax(-1)
    forward, reverse = ForwardKL(), ReverseKL()
    assert forward(exact, target).mean() < forward(geometric, target).mean()
    assert reverse(geometric, target).mean() < reverse(exact, target).mean()


def test_tokens_revealed_together_leave_an_error_of_the_step_squared():
    """p(000) = p(110) = .45, p(011) = p(101) = .05: the third token follows from the first two, drawn apart."""
    table = torch.zeros(2, 2, 2, dtype=torch.float64)
    table[0, 0, 0] = table[1, 1, 0] = 0.45
    table[0, 1, 1] = table[1, 0, 1] = 0.05
    kernel = AbsorbingKernel(3, LinearSurvival())
    teacher = EnumeratedDenoiser(EnumeratedLaw(table), kernel)
    start = torch.full((60_000, 3), 2)
    errors = []
    for step in (0.5, 0.25):
        t = torch.ones(len(start), dtype=torch.float64)
        objective = SelfDistillationThroughTime(kernel, teacher, teacher_steps=round(1 / step))
        target = objective.target(start, t, step, torch.Generator().manual_seed(0))
        errors.append(float(target[:, 2, 1].exp().mean()) - 0.1)
    # Both others revealed and the third not, (1 − step) step²: then it is 1 with probability 1/2, not 1/10.
    for step, error in zip((0.5, 0.25), errors, strict=True):
        assert error == pytest.approx(0.4 * step**2 * (1 - step), abs=0.006)


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()], ids=["forward", "reverse"])
def test_divergences_are_positive_and_vanish_on_equal_laws(divergence):
    first, second = torch.randn(2, 10, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert (divergence(first, second) > 0).all()
    torch.testing.assert_close(divergence(first, first), torch.zeros(10))


def test_the_two_divergences_are_each_others_mirror():
    first, second = torch.randn(2, 10, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    torch.testing.assert_close(ForwardKL()(first, second), ReverseKL()(second, first))


def test_training_lowers_the_divergence_and_leaves_the_teacher_alone():
    torch.manual_seed(0)
    teacher, truth = EnumeratedDenoiser(law(), KERNEL), law()
    objective, student = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=4), transformer()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        stream = torch.Generator().manual_seed(step)
        loss = objective(student, Batch(truth.sample(64, stream)), stream)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_loss_is_a_function_of_the_generator_and_its_gradients_are_finite():
    torch.manual_seed(0)
    student = transformer()
    objective = SelfDistillationThroughTime(KERNEL, transformer(), teacher_steps=4)
    batch = Batch(torch.randint(3, (8, 3)))
    first, second = (objective(student, batch, torch.Generator().manual_seed(3)).total for _ in range(2))
    assert first == second
    first.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_each_round_promotes_the_student_and_halves_the_steps():
    torch.manual_seed(0)
    teacher, student = transformer(), transformer()
    objective = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=16, rounds=2, round_length=10)
    batch, stream = Batch(torch.zeros(2, 3).long()), torch.Generator()
    assert objective.current_teacher is teacher
    assert objective(student, batch, stream).terms["teacher_steps"] == 16
    assert objective.evaluations() == 2 * 2
    objective.after_step(student, 9)
    assert objective.current_teacher is teacher
    objective.after_step(student, 10)
    assert objective(student, batch, stream).terms["teacher_steps"] == 8
    assert objective.evaluations() == 2 * 4  # the promoted teacher's are counted too
    torch.testing.assert_close(objective.current_teacher.bias, student.bias)
    with torch.no_grad():
        student.bias.add_(1.0)
    assert not torch.equal(objective.current_teacher.bias, student.bias)
    objective.after_step(student, 20)
    assert objective(student, batch, stream).terms["teacher_steps"] == 8


def test_a_resumed_run_continues_its_round_and_never_stores_the_first_teacher():
    torch.manual_seed(0)
    teacher, student = transformer(), transformer()
    arguments = {"teacher_steps": 16, "rounds": 2, "round_length": 10}
    objective = SelfDistillationThroughTime(KERNEL, teacher, **arguments)
    objective.after_step(student, 10)
    resumed = SelfDistillationThroughTime(KERNEL, copy.deepcopy(teacher), **arguments)
    resumed.prepare(student)
    resumed.load_state_dict(objective.state_dict())
    torch.testing.assert_close(resumed.current_teacher.bias, student.bias)
    assert list(SelfDistillationThroughTime(KERNEL, teacher).state_dict()) == ["teacher_evaluations", "round"]
    assert not any(p.requires_grad for p in objective.parameters())
    objective.train()
    assert not objective.current_teacher.training


def test_unsuitable_configurations_are_refused():
    with pytest.raises(TypeError, match="UniformKernel"):
        SelfDistillationThroughTime(UniformKernel(4, LinearSurvival()), transformer())
    with pytest.raises(ValueError, match="teacher_steps = 6"):
        SelfDistillationThroughTime(KERNEL, transformer(), teacher_steps=6, rounds=2, round_length=1)
    with pytest.raises(ValueError, match="round_length"):
        SelfDistillationThroughTime(KERNEL, transformer(), teacher_steps=8, rounds=2)


def test_several_steps_of_the_teacher_are_one_of_the_student():
    """Four predictions at t, t − 1/8, … on ever fewer masks; a token keeps the one that its step was drawn from."""
    seen = []

    def logits(t, z, cond=None):
        seen.append((t.clone(), z.clone()))
        return torch.tensor([1.0, 0.0, 0.0, 0.0]) * len(seen) + torch.zeros(*z.shape, 4)

    teacher = nn.Identity()
    teacher.forward = logits
    objective = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=8, factor=4)
    t = torch.full((400,), 0.5, dtype=torch.float64)
    target = objective.target(torch.full((400, 3), 3), t, 0.125, torch.Generator().manual_seed(0))
    assert [float(time[0]) for time, _ in seen] == [0.5, 0.375, 0.25, 0.125]
    masks = [z == 3 for _, z in seen]
    for earlier, later in itertools.pairwise(masks):
        assert (later <= earlier).all()
    # The k-th state is masked with probability (4 − k)/4: as many steps lead to 0.
    shares = [float(mask.double().mean()) for mask in masks]
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=0.05)
    steps = torch.stack(masks).sum(0)
    for count in range(1, 5):
        law = torch.tensor([1.0, 0.0, 0.0]).mul(count).log_softmax(-1)
        chosen = target[steps == count][:, :3]
        torch.testing.assert_close(chosen, law.expand(len(chosen), -1))


def test_a_students_copy_is_made_once_and_none_of_its_teacher():
    copies = []

    class Watched(TokenTransformer):
        def __deepcopy__(self, memo):
            copies.append(self)
            return transformer()

    teacher, student = Watched(4, 3, 16, 1, 2), Watched(4, 3, 16, 1, 2)
    objective = SelfDistillationThroughTime(KERNEL, teacher, teacher_steps=16, rounds=2, round_length=10)
    objective.prepare(student)
    objective.after_step(student, 10)
    assert len(copies) == 1
    assert copies[0] is student
    assert objective.current_steps == 8
