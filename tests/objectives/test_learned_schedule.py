"""A learned schedule: the bound's value is untouched, and its gradient is that of the loss's second moment."""

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.networks.ema import ExponentialMovingAverage
from isocline.objectives.learned_schedule import LearnedScheduleDiffusion, log_second_moment
from isocline.objectives.masked import MaskedDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.learned_schedule import MonotoneSurvival
from isocline.processes.token_schedule import LinearSurvival
from isocline.training.module import GenerativeModule

MIDDLES = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000


def cost(a):
    """A stand-in for the loss at survival ``a``, per unit of a: most of it where little survives."""
    return (1 - a) ** 3 + 0.05


def second_moment(schedule, t):
    """∫ (a'(t) cost(a(t)))² dt with its whole dependence on the schedule."""
    return ((schedule.da(t) * cost(schedule.a(t))) ** 2).mean()


def setup():
    truth = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))
    kernel = AbsorbingKernel(4, MonotoneSurvival(4))
    return truth, kernel, EnumeratedDenoiser(truth, kernel)


def test_the_gradient_is_that_of_the_log_second_moment_by_quadrature():
    schedule = MonotoneSurvival(6)
    schedule.log_heights.data += torch.linspace(-1, 2, 6)
    nats = (-schedule.da(MIDDLES) * cost(schedule.a(MIDDLES))).detach()
    found = torch.autograd.grad(log_second_moment(schedule, MIDDLES, nats), list(schedule.parameters()))
    expected = torch.autograd.grad(second_moment(schedule, MIDDLES).log(), list(schedule.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert max(one.abs().max() for one in found) > 0.1


def test_training_brings_the_second_moment_down_to_the_squared_mean():
    """Its least value is the mean squared, where the density of survivals is proportional to the cost."""
    schedule, times = MonotoneSurvival(12), MIDDLES[50::100]
    mean = cost(MIDDLES).mean()
    start = second_moment(schedule, MIDDLES) / mean**2 - 1
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        nats = (-schedule.da(times) * cost(schedule.a(times))).detach()
        log_second_moment(schedule, times, nats).backward()
        optimizer.step()
    end = second_moment(schedule, MIDDLES) / mean**2 - 1
    assert start > 0.5
    assert 0 <= end < 0.02


def test_the_value_of_the_loss_and_the_gradient_of_the_network_are_those_of_the_plain_objective():
    truth, kernel, _ = setup()
    network = torch.nn.Embedding(4, 4)
    batch = Batch(truth.sample(16, torch.Generator().manual_seed(1)))
    found = []
    for kind in (MaskedDiffusion, LearnedScheduleDiffusion):
        network.zero_grad()
        loss = kind(kernel)(lambda t, z, cond: network(z), batch, torch.Generator().manual_seed(2))
        loss.total.backward()
        found.append((loss.total.detach(), network.weight.grad.clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert all(parameter.grad.abs().max() > 0 for parameter in kernel.schedule.parameters())


def test_the_bound_stays_the_entropy_under_a_learned_schedule():
    truth, kernel, network = setup()
    kernel.schedule.log_heights.data += torch.tensor([2.0, -1, 1, 0])
    stream = torch.Generator().manual_seed(3)
    objective = LearnedScheduleDiffusion(kernel)
    losses = torch.stack([objective(network, Batch(truth.sample(400, stream)), stream).total for _ in range(60)])
    losses = losses.detach() * 3
    assert (losses.mean() - truth.entropy).abs() < 4 * losses.std() / 60**0.5
    assert 4 * losses.std() / 60**0.5 < 0.1 * truth.entropy


def test_the_training_module_trains_the_schedule_and_saves_it_in_its_checkpoint():
    _, kernel, _ = setup()
    network = torch.nn.Linear(2, 2)
    module = GenerativeModule(
        network, LearnedScheduleDiffusion(kernel), torch.optim.Adam, ExponentialMovingAverage, seed=0, steps=2
    )
    trained = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert {id(p) for p in trained} == {id(p) for p in (*network.parameters(), *kernel.schedule.parameters())}
    assert "objective.schedule.middles" in module.state_dict()


def test_kernels_without_a_learned_schedule_are_refused():
    with pytest.raises(TypeError, match="LinearSurvival"):
        LearnedScheduleDiffusion(AbsorbingKernel(4, LinearSurvival()))
    with pytest.raises(TypeError, match="UniformKernel"):
        LearnedScheduleDiffusion(UniformKernel(4, MonotoneSurvival()))
