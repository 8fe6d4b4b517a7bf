"""A denoiser of tokens as one of one-hot vectors: conversions and flow maps."""

import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_path import EnumeratedPathDenoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.onehot_denoiser import OneHotDenoiser
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.flow_map import FlowMapSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import Heun

PATH = OneHotGaussianPath(4)


def setup(count=5):
    law = EnumeratedLaw.random(3, 2, 1.5, torch.Generator().manual_seed(1))
    network = EnumeratedPathDenoiser(law, PATH)
    t = torch.full((count,), 0.6, dtype=torch.float64)
    x = PATH.sample(law.sample(count, torch.Generator().manual_seed(0)), t, torch.Generator().manual_seed(0))
    return law, network, t, x.double()


def test_the_predicted_data_are_the_law_of_the_token():
    _, network, t, x = setup()
    found = OneHotDenoiser(network, PATH).data(t, x)
    torch.testing.assert_close(found, PATH.log_probs(network, t, x).exp())
    torch.testing.assert_close(found.sum(-1), torch.ones(5, 2, dtype=torch.float64))


def test_it_is_a_network_that_predicts_data_under_the_gaussian_process():
    _, network, t, x = setup()

    class Data(torch.nn.Module):
        def forward(self, t, x, cond=None):
            return PATH.log_probs(network, t, x).exp()

    here, there = OneHotDenoiser(network, PATH), Denoiser(Data(), PATH.gaussian)
    torch.testing.assert_close(here.velocity(t, x), there.velocity(t, x))
    torch.testing.assert_close(here.noise(t, x), there.noise(t, x))


def test_a_short_flow_map_follows_the_velocity_of_the_path():
    _, network, t, x = setup()
    denoiser, s = OneHotDenoiser(network, PATH), t - 1e-5
    moved = flow_map(denoiser, t, s, x) - x
    step = (PATH.position(s) - PATH.position(t)).view(-1, 1, 1)
    wanted = step * PATH.velocity(PATH.position(t), x, denoiser.data(t, x))
    torch.testing.assert_close(moved, wanted, rtol=1e-6, atol=1e-12)


def test_the_flow_map_to_0_is_the_predicted_data():
    _, network, t, x = setup()
    denoiser = OneHotDenoiser(network, PATH)
    torch.testing.assert_close(flow_map(denoiser, t, 0.0, x), denoiser.data(t, x))
    torch.testing.assert_close(flow_map(denoiser, t, t, x), x)


def test_a_network_of_two_times_is_told_the_end():
    class TwoTimes(torch.nn.Module):
        takes_end = True

        def forward(self, t, x, cond=None, s=None):
            self.seen = s
            return torch.zeros_like(x)

    network = TwoTimes()
    denoiser = OneHotDenoiser(network, PATH)
    x = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    denoiser.towards(0.25).data(torch.tensor(0.5), x)
    assert float(network.seen) == 0.25
    denoiser.data(torch.tensor(0.5), x)
    assert network.seen is None


def test_samplers_of_gaussian_processes_reproduce_the_law_of_tokens():
    law, network, *_ = setup()
    noise = torch.randn(4000, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = OneHotDenoiser(network, PATH)
    sampler = ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())
    tokens = sampler.sample(denoiser, noise, 64).final.argmax(-1)
    statistic = 4000 * ((law.frequencies(tokens) - law.probs).square() / law.probs).sum()
    assert statistic < 26.1  # 99.9 % of chi-squared with 8 degrees of freedom
    one = FlowMapSampler().sample(denoiser, noise[:10], 1).final
    torch.testing.assert_close(one.sum(-1), torch.ones(10, 2, dtype=torch.float64))
