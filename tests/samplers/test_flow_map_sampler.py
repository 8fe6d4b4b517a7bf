"""Sampling by flow maps: exact maps, the two ends of gamma, laws between, budgets and streams."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, GaussianMap, exact_map
from tests.samplers.exact_fields import MIXTURE, POINT, PROCESSES, exact, noise, stream

from isocline.processes.denoiser import Denoiser
from isocline.processes.grid import PowerGrid, UniformTimeGrid
from isocline.processes.probability_flow import TimeVariable
from isocline.samplers.consistency import ConsistencySampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.flow_map import FlowMapSampler
from isocline.samplers.guidance import ClassifierFreeGuidance


class MixtureMap(torch.nn.Module):
    """The exact average velocity of `known_flow.MIXTURE` on the linear path."""

    takes_end = True

    def forward(self, t, x, cond=None, s=None):
        t, s = (torch.as_tensor(time, dtype=D).expand(len(x)) for time in (t, s))
        return (x - exact_map(t, s, x)) / (t - s)[:, None]


@pytest.mark.parametrize("grid", [UniformTimeGrid(), PowerGrid()])
def test_without_noise_an_exact_map_is_exact_in_any_number_of_steps(grid) -> None:
    x1 = noise(30)
    wanted = exact_map(torch.ones(30, dtype=D), torch.zeros(30, dtype=D), x1)
    for nfe in (1, 2, 3, 8):
        solution = FlowMapSampler(grid).sample(Denoiser(MixtureMap(), LINEAR), x1, nfe, save_steps=True)
        torch.testing.assert_close(solution.final, wanted, rtol=0, atol=1e-8)
        assert solution.stats.nfe.unique().tolist() == [nfe]
        assert len(solution.ts) == nfe + 1


@pytest.mark.parametrize("name", PROCESSES)
def test_without_noise_and_distillation_it_is_ddim(name: str) -> None:
    process = PROCESSES[name]
    found = FlowMapSampler().sample(exact(process), noise(), 6).final
    wanted = DDIMSampler(UniformTimeGrid()).sample(exact(process), noise(), 6).final
    # Schedules with σ(0) > 0: the uniform grids in t and in the linear path's position end alike, at data.
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", PROCESSES)
def test_gamma_of_one_is_multistep_consistency_sampling_to_the_bit(name: str) -> None:
    process, streams = PROCESSES[name], stream(3)
    denoiser = exact(process)
    times = [*torch.linspace(process.t_max, process.t_min, 5, dtype=D)[:-1], None]
    x = process.prior(noise())
    for t, after in itertools.pairwise(times):
        x = denoiser.data(t, x)
        if after is not None:
            fresh = torch.randn(x.shape, generator=streams, dtype=D)
            x = process.mix(x, fresh, process.schedule(after))
    for sampler in (FlowMapSampler(gamma=1.0), ConsistencySampler()):
        assert torch.equal(sampler.sample(denoiser, noise(), 4, generator=stream(3)).final, x)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
def test_the_law_of_samples_does_not_depend_on_gamma_for_an_exact_map(gamma: float) -> None:
    n = 20_000
    found = FlowMapSampler(gamma=gamma).sample(Denoiser(GaussianMap(), LINEAR), noise(n), 4, generator=stream(1)).final
    mean, variance = GAUSSIAN.means[0].to(D), GAUSSIAN.variances[0].to(D)
    assert ((found.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    assert ((found.var(0) / variance - 1).abs() < 4 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_between_keeps_the_process_s_law_and_none_is_left_at_the_end(name: str) -> None:
    denoiser = exact(PROCESSES[name], POINT)
    solution = FlowMapSampler(gamma=0.6).sample(denoiser, noise(20_000), 3, generator=stream(2), save_steps=True)
    torch.testing.assert_close(solution.final, POINT.means.expand(20_000, 2), rtol=0, atol=1e-7)
    values = PROCESSES[name].schedule(solution.ts[1])
    spread = (solution.ys[1] - values.alpha * POINT.means).std(0)
    torch.testing.assert_close(spread, values.sigma.expand(2), rtol=0.03, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_streams_of_their_own_make_samples_independent_of_the_batch(gamma: float) -> None:
    denoiser, x1, sampler = exact(PROCESSES["linear"]), noise(6), FlowMapSampler(gamma=gamma)

    def draw(rows: list[int]) -> torch.Tensor:
        return sampler.sample(denoiser, x1[rows], 4, generator=[stream(100 + row) for row in rows]).final

    together = draw(list(range(6)))
    torch.testing.assert_close(draw([4, 1]), together[[4, 1]], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(together, sampler.sample(denoiser, x1, 4, generator=stream()).final)


def test_budgets_count_every_forward_and_noise_needs_a_generator() -> None:
    calls = []

    class Counted(torch.nn.Module):
        takes_end = True

        def forward(self, t, x, cond=None, s=None):
            calls.append(float(s))
            return torch.zeros_like(x)

    guided = ClassifierFreeGuidance(Denoiser(Counted(), PROCESSES["linear"]), 2.0)
    solution = FlowMapSampler(gamma=0.5).sample(guided, noise(), 7, torch.zeros(16), generator=stream())
    assert calls == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6, 0, 0])
    assert solution.stats.nfe.unique().tolist() == [6]
    with pytest.raises(ValueError, match="generator"):
        FlowMapSampler(gamma=0.5).sample(exact(PROCESSES["vp"], MIXTURE), noise(), 2)
    FlowMapSampler(gamma=0.5).sample(exact(PROCESSES["vp"], MIXTURE), noise(), 1)
    with pytest.raises(ValueError, match=r"gamma=1\.5"):
        FlowMapSampler(gamma=1.5)


def test_another_grid_moves_the_jumps() -> None:
    process = PROCESSES["edm"]
    solution = FlowMapSampler().on(PowerGrid()).sample(exact(process), noise(), 5, save_steps=True)
    assert torch.equal(solution.ts, PowerGrid()(process, TimeVariable(), 5))
