"""Flow maps of tokens: a method for vectors at work on one-hot vectors, against a law that is known."""

import copy
import functools

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.distillation.consistency import ConsistencyMatching
from isocline.distillation.curriculum import DoublingCurriculum
from isocline.distillation.mean_flow import MeanFlow
from isocline.distillation.onehot_distillation import OneHotDistillation
from isocline.distillation.time_pairs import GridPairs
from isocline.networks.soft_token_transformer import SoftTokenTransformer
from isocline.processes.denoiser import Denoiser
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_path import EnumeratedPathDenoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.onehot_network import VectorNetwork, vector_process
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.samplers.onehot_flow_map import OneHotFlowMapSampler
from isocline.samplers.simplex import SimplexSampler

PATH = OneHotGaussianPath(4)
D = torch.float64


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def equal_pair():
    """Two tokens of three symbols that are equal in 96 of 100 cases."""
    return EnumeratedLaw(torch.full((3, 3), 0.04 / 6) + torch.eye(3) * (0.32 - 0.04 / 6))


def student(seed=0, **options):
    torch.manual_seed(seed)
    return SoftTokenTransformer(4, 2, 32, 2, 2, **options)


def consistency(steps=40, first=8, last=32):
    pairs = GridPairs(DoublingCurriculum(first, last, steps))
    return functools.partial(ConsistencyMatching, pairs=pairs)


def distance(law, network, sampler, nfe, count=6000):
    """Total variation between a law and what a sampler makes."""
    made = sampler.sample(network, PATH, (count, law.length), nfe, draws(1)).final
    return float((law.frequencies(made) - law.probs).abs().sum() / 2)


def test_the_vectors_field_is_the_paths_own():
    """ε − s p is the path's velocity in its position, σ."""
    network, t = EnumeratedPathDenoiser(equal_pair(), PATH), torch.tensor([0.2, 0.6, 0.95], dtype=D)
    x = torch.randn(3, 2, 3, generator=draws(), dtype=D)
    found = VectorNetwork(network, PATH)(t, x)
    wanted = PATH.velocity(PATH.position(t), x, PATH.log_probs(network, t, x).exp())
    torch.testing.assert_close(found, wanted)


def test_a_map_to_data_ends_on_the_simplex_and_one_of_no_length_moves_nothing():
    denoiser = Denoiser(VectorNetwork(student(), PATH).double(), vector_process(PATH))
    x = torch.randn(5, 2, 3, generator=draws(), dtype=D)
    ended = flow_map(denoiser, 0.8, 0.0, x)
    torch.testing.assert_close(ended.sum(-1), torch.ones(5, 2, dtype=D))
    assert (ended > -1e-12).all()
    torch.testing.assert_close(flow_map(denoiser, 0.8, 0.8, x), x)


def test_the_flow_of_one_sequence_is_consistent_and_costs_nothing():
    probs = torch.full((3, 3), 1e-200, dtype=D)
    probs[1, 2] = 1.0
    teacher = EnumeratedPathDenoiser(EnumeratedLaw(probs), PATH)
    objective = OneHotDistillation(PATH, teacher, consistency())
    objective.prepare(teacher)
    batch = Batch(torch.tensor([[1, 2]]).expand(64, 2))
    assert float(objective(teacher, batch, draws()).terms["mse"]) < 1e-10
    assert float(objective(student(), batch, draws()).terms["mse"]) > 1e-2


def test_methods_of_two_times_run_on_students_of_two_times():
    teacher = EnumeratedPathDenoiser(equal_pair(), PATH)
    network = student(end_time=True)
    objective = OneHotDistillation(PATH, teacher, MeanFlow)
    objective.prepare(network)
    loss = objective(network, Batch(equal_pair().sample(16, draws())), draws())
    loss.total.backward()
    assert loss.total.isfinite()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_the_teacher_is_frozen_counted_and_not_stored_and_a_resumed_run_goes_on():
    teacher, network = student(1), student(2)

    def fresh():
        made = OneHotDistillation(PATH, copy.deepcopy(teacher), consistency())
        made.prepare(network)
        return made

    objective, batch = fresh(), Batch(equal_pair().sample(16, draws()))
    objective(network, batch, draws()).total.backward()
    assert objective.evaluations() == 16
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert not any(p.requires_grad for p in objective.parameters())
    kept = [name for name, value in objective.state_dict().items() if "embed.weight" in name]
    assert kept == ["method.target.average.network.embed.weight"]
    with torch.no_grad():
        network.bias.add_(1.0)
    for step in range(1, 31):
        objective.after_step(network, step)
    resumed = fresh()
    resumed.load_state_dict(objective.state_dict())
    first, second = (one(network, batch, draws(3)) for one in (objective, resumed))
    assert first.total == second.total
    assert first.terms["intervals"] == second.terms["intervals"] == 32


def test_prompted_tokens_stay_and_condition_the_others():
    teacher = EnumeratedPathDenoiser(equal_pair(), PATH)
    given, fixed = torch.tensor([2, 0]), torch.tensor([True, False])
    made = OneHotFlowMapSampler().sample(teacher, PATH, (2000, 2), 64, draws(), prompt=(given, fixed), save_steps=True)
    assert (made.ys[:, :, 0] == 2).all()
    assert made.ys.shape == (65, 2000, 2)
    # Given the first, the second is equal to it with probability 0.96.
    assert float((made.final[:, 1] == 2).double().mean()) == pytest.approx(0.96, abs=0.03)


def test_maps_of_a_teacher_that_was_not_distilled_reach_its_law_in_many_steps():
    law = equal_pair()
    teacher = EnumeratedPathDenoiser(law, PATH)
    assert distance(law, teacher, OneHotFlowMapSampler(), 1) > 0.5
    assert distance(law, teacher, OneHotFlowMapSampler(), 32) < 0.04


@pytest.mark.slow
def test_a_student_makes_tokens_that_depend_on_each_other_in_one_evaluation():
    """Total variation of one evaluation: 0.6 for any tokens drawn apart, and for the teacher; 0.1 for the student."""
    law, steps = equal_pair(), 600
    teacher, network = EnumeratedPathDenoiser(law, PATH), student()
    objective = OneHotDistillation(PATH, teacher, consistency(steps))
    objective.prepare(network)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        objective(network, Batch(law.sample(128, draws(step))), draws(step)).total.backward()
        optimizer.step()
        objective.after_step(network, step + 1)
    maps = OneHotFlowMapSampler()
    assert distance(law, teacher, SimplexSampler(), 1) > 0.5
    assert distance(law, network, maps, 1) < 0.25
    assert distance(law, network, maps, 2) < 0.5 * distance(law, teacher, SimplexSampler(), 2)
