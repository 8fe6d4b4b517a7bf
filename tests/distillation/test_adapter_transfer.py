"""An adapter that makes a teacher fast makes another fine-tune of that teacher fast: trained, not assumed."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.distillation.known_flow import LINEAR, Student, train

from isocline.datasets.batch import Batch
from isocline.distillation.consistency import ConsistencyMatching
from isocline.metrics.energy_distance import energy_distance
from isocline.networks.adapter import Adapted
from isocline.objectives.matching import DenoisingMatching
from isocline.processes.denoiser import Denoiser
from isocline.samplers.consistency import ConsistencySampler
from isocline.samplers.flow_map import FlowMapSampler


def ring(n, generator):
    """Six modes on a circle."""
    angle = torch.randint(0, 6, (n,), generator=generator) * torch.pi / 3
    modes = 1.5 * torch.stack([angle.cos(), angle.sin()], -1)
    return modes + 0.15 * torch.randn(n, 2, generator=generator)


def turned(n, generator):
    """The same ring, turned and moved: what the fine-tune is trained on."""
    turn = torch.tensor([[0.955, 0.296], [-0.296, 0.955]])
    return ring(n, generator) @ turn + torch.tensor([0.6, -0.4])


def batches(law):
    return lambda n, generator: Batch(law(n, generator))


def distance(network, sampler, nfe):
    """Energy distance of samples from the fine-tune's data; 0.001 or less between two sets of these data."""
    noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        solution = sampler.sample(Denoiser(network, LINEAR), noise, nfe, generator=torch.Generator().manual_seed(6))
    return float(energy_distance(solution.final, turned(2000, torch.Generator().manual_seed(7))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_adapter_of_a_teacher_makes_a_fine_tune_of_it_fast(seed):
    settings = {"batch": 128, "seed": seed}
    teacher = train(DenoisingMatching(LINEAR), Student(seed=seed), 300, data=batches(ring), **settings)
    tuned = copy.deepcopy(teacher).requires_grad_(True)
    tuned = train(DenoisingMatching(LINEAR), tuned, 100, lr=1e-3, data=batches(turned), **settings)
    torch.manual_seed(seed)
    student = Adapted(copy.deepcopy(teacher))
    student = train(ConsistencyMatching(LINEAR, teacher), student, 300, data=batches(ring), **settings)
    made = Adapted(copy.deepcopy(tuned))
    made.load_state_dict(student.adapter(), strict=False)
    for nfe in (1, 2):
        found = distance(made, ConsistencySampler(), nfe)
        assert found < distance(tuned, FlowMapSampler(), nfe) / 2
        assert found < distance(student, ConsistencySampler(), nfe)  # which samples the teacher's data
