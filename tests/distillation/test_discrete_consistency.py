"""Discrete consistency distillation: its floor against enumeration, its minimiser, its rounds and its average."""

import copy
import itertools

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.discrete_consistency import DiscreteConsistencyDistillation
from isocline.distillation.divergence import ForwardKL, ReverseKL
from isocline.distillation.target_decay import ConstantDecay
from isocline.distillation.target_network import AveragedTarget
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.time_sampling import AbstractTimes
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival

D = torch.float64
KERNEL = UniformKernel(3, LinearSurvival())
T, S = 0.8, 0.55
STATES = torch.tensor(list(itertools.product(range(2), repeat=2)))


def law():
    """Two positions of two symbols, mostly equal."""
    return EnumeratedLaw(torch.tensor([[0.5, 0.1], [0.05, 0.35]], dtype=D))


def transformer():
    network = TokenTransformer(3, 2, 16, 1, 2)
    nn.init.normal_(network.bias)
    return network


def pair_law(t, s):
    """P(z_t, z_s) over pairs of states ``(4, 4)``.

    Of one position with clean token x: it stays noise, becomes x between t and s, or is x at t already.
    """
    one = torch.zeros(2, 2, 2, dtype=D)  # x, z_t, z_s
    for x, noise in itertools.product(range(2), repeat=2):
        one[x, noise, noise] += s / 2
        one[x, noise, x] += (t - s) / 2
        one[x, x, x] += (1 - t) / 2
    truth = law()
    joint = torch.zeros(4, 4, dtype=D)
    for (first, second), prob in zip(truth.sequences.tolist(), truth.probs, strict=True):
        joint += prob * torch.einsum("ac,bd->abcd", one[first], one[second]).reshape(4, 4)
    return joint


class FixedTime(AbstractTimes):
    def __call__(self, n, process, generator):
        return torch.full((n,), T, dtype=D)


class Best(nn.Module):
    """What a student can do best at (t, z): the mean, of either kind, of the exact denoiser's answers at s."""

    def __init__(self, mean):
        super().__init__()
        self.joint = pair_law(T, S)
        self.answers = EnumeratedDenoiser(law(), KERNEL)(torch.tensor(S, dtype=D), STATES)[..., :2]
        self.averaged = mean(self.joint / self.joint.sum(1, keepdim=True), self.answers)

    def forward(self, t, z, cond=None):
        assert (t == T).all()
        logits = self.averaged[2 * z[:, 0] + z[:, 1]]
        return torch.cat([logits, torch.zeros_like(logits[..., :1])], -1)

    def loss(self, divergence, student):
        """The loss of a student's laws ``(4, 2, 2)``, summed over all pairs of states."""
        pairs = divergence(student[:, None].expand(4, 4, 2, 2), self.answers.expand(4, 4, 2, 2)).mean(-1)
        return float((self.joint * pairs).sum())


def arithmetic(share, answers):
    return torch.einsum("ab,blv->alv", share, answers.exp()).log()


def geometric(share, answers):
    return torch.einsum("ab,blv->alv", share, answers).log_softmax(-1)


MEANS = {"forward": (ForwardKL(), arithmetic), "reverse": (ReverseKL(), geometric)}


@pytest.mark.parametrize("name", MEANS)
def test_the_best_student_leaves_the_spread_of_the_teachers_answers_and_no_less(name):
    """The objective's mean over data and noise against the sum over all pairs of states."""
    divergence, mean = MEANS[name]
    teacher, best = EnumeratedDenoiser(law(), KERNEL), Best(mean)
    objective = DiscreteConsistencyDistillation(
        KERNEL, teacher, teacher_steps=4, divergence=divergence, times=FixedTime()
    )
    found = []
    for seed in range(40):
        stream = torch.Generator().manual_seed(seed)
        found.append(float(objective(best, Batch(law().sample(2000, stream)), stream).total))
    sampled, floor = torch.tensor(found, dtype=D), best.loss(divergence, best.averaged)
    error = float(sampled.std()) / len(found) ** 0.5
    assert floor > 20 * error
    assert abs(float(sampled.mean()) - floor) < 4 * error


@pytest.mark.parametrize("name", MEANS)
def test_any_other_student_is_worse_by_its_divergence_from_the_best(name):
    """E KL(T‖S) = E KL(T‖S*) + KL(S*‖S) for the arithmetic mean S*, and its mirror image for the geometric one."""
    divergence, mean = MEANS[name]
    best = Best(mean)
    other = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=D).log_softmax(-1)
    excess = best.loss(divergence, other) - best.loss(divergence, best.averaged)
    direct = float((best.joint.sum(1) * divergence(other, best.averaged).mean(-1)).sum())
    assert excess == pytest.approx(direct, abs=1e-12)
    assert excess > 0.01


def test_a_law_of_one_sequence_has_no_floor():
    """The exact denoiser knows the data whatever the noise: the consistent map, whose loss is zero."""
    point = torch.zeros(2, 2, dtype=D)
    point[0, 1] = 1.0
    truth = EnumeratedLaw(point + 1e-15)
    teacher = EnumeratedDenoiser(truth, KERNEL)
    objective = DiscreteConsistencyDistillation(KERNEL, teacher, 4, divergence=ForwardKL(), times=FixedTime())
    batch = Batch(torch.tensor([[0, 1]]).expand(50, 2))
    assert objective(teacher, batch, torch.Generator().manual_seed(0)).total.abs() < 1e-10


def test_the_states_lie_on_one_trajectory_a_teachers_step_apart():
    seen = {}

    def watch(name):
        network = nn.Identity()

        def logits(t, z, cond=None):
            seen[name] = (t, z)
            return torch.zeros(*z.shape, 9)

        network.forward = logits
        return network

    kernel = UniformKernel(9, LinearSurvival())
    objective = DiscreteConsistencyDistillation(kernel, watch("teacher"), teacher_steps=8)
    x0 = torch.randint(8, (64, 200), generator=torch.Generator().manual_seed(1))
    objective(watch("student"), Batch(x0), torch.Generator().manual_seed(0))
    (t, later), (s, earlier) = seen["student"], seen["teacher"]
    assert t.min() >= 0
    assert t.max() <= 1
    torch.testing.assert_close(s, torch.maximum(t - 0.125, t.clamp_max(1e-3)))
    changed = later != earlier
    assert torch.equal(earlier[changed], x0[changed])
    # A token of noise, other than x by chance 7/8, turns clean with probability a_s − a_t = t − s.
    assert float(changed.double().mean()) == pytest.approx(float((t - s).mean()) * 7 / 8, abs=0.01)


def test_the_promoted_teacher_is_the_average_and_the_gap_doubles():
    torch.manual_seed(0)
    teacher, student = transformer(), transformer()
    average = AveragedTarget(ConstantDecay(0.5))
    objective = DiscreteConsistencyDistillation(
        KERNEL, teacher, teacher_steps=16, rounds=2, round_length=3, average=average
    )
    objective.prepare(student)
    expected = student.bias.detach().clone()
    batch = Batch(torch.zeros(4, 2).long())
    assert objective(student, batch, torch.Generator()).terms["teacher_steps"] == 16
    assert objective.current_teacher is teacher
    for step in range(1, 4):
        with torch.no_grad():
            student.bias.add_(1.0)
        expected = 0.5 * expected + 0.5 * student.bias.detach()
        objective.after_step(student, step)
    torch.testing.assert_close(objective.current_teacher.bias, expected)
    assert not torch.equal(objective.current_teacher.bias, student.bias)
    assert objective(student, batch, torch.Generator()).terms["teacher_steps"] == 8
    assert objective.evaluations() == 2 * 4
    objective.after_step(student, 6)
    assert objective.current_steps == 8


def test_a_resumed_run_has_the_average_the_round_and_the_promoted_teacher():
    torch.manual_seed(0)
    teacher, student = transformer(), transformer()

    def fresh():
        made = DiscreteConsistencyDistillation(KERNEL, copy.deepcopy(teacher), 16, rounds=2, round_length=2)
        made.prepare(transformer())
        return made

    objective = fresh()
    for step in (1, 2, 3):
        with torch.no_grad():
            student.bias.add_(1.0)
        objective.after_step(student, step)
    resumed = fresh()
    resumed.load_state_dict(objective.state_dict())
    batch = Batch(torch.randint(2, (6, 2)))
    losses = [one(student, batch, torch.Generator().manual_seed(3)).total for one in (objective, resumed)]
    assert torch.equal(*losses)
    for one in (objective, resumed):
        one.after_step(student, 4)
    torch.testing.assert_close(resumed.average.average.bias, objective.average.average.bias)
    assert not any("frozen" in key for key in objective.state_dict())
    objective.train()
    assert not objective.current_teacher.training


def test_gradients_reach_the_student_and_not_the_teacher():
    torch.manual_seed(0)
    student = transformer()
    objective = DiscreteConsistencyDistillation(KERNEL, transformer(), teacher_steps=4)
    objective(student, Batch(torch.randint(2, (8, 2))), torch.Generator().manual_seed(0)).total.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert not any(p.requires_grad for p in objective.parameters())


def test_only_the_uniform_kernel_is_taken():
    with pytest.raises(TypeError, match="AbsorbingKernel"):
        DiscreteConsistencyDistillation(AbsorbingKernel(3, LinearSurvival()), transformer())
