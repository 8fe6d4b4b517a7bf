"""Flow maps by DDIM's step: the identity at s = t, exact maps, ends of schedules, wrappers that hand the end on."""

from __future__ import annotations

import pytest
import torch
from tests.distillation.known_flow import GAUSSIAN, LINEAR, D, GaussianMap

from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import (
    DifferencePrediction,
    NoisePrediction,
    ScorePrediction,
    TrigFlowPrediction,
    VPrediction,
)
from isocline.processes.schedule import (
    EDMSchedule,
    LinearSchedule,
    TrigFlowSchedule,
    VPCosineSchedule,
    VPLinearSchedule,
)
from isocline.samplers.clipping import ClippedDenoiser
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.guidance import AutoGuidance, ClassifierFreeGuidance, IntervalGuidance
from isocline.samplers.guided import Meter

PROCESSES = {
    "linear": LINEAR,
    "difference": GaussianProcess(LinearSchedule(), DifferencePrediction()),
    "cosine": GaussianProcess(VPCosineSchedule(), VPrediction()),
    "trigflow": GaussianProcess(TrigFlowSchedule(0.7), TrigFlowPrediction()),
    "vp": GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3),
    "score": GaussianProcess(VPLinearSchedule(), ScorePrediction(), t_min=1e-3),
    "edm": GaussianProcess(EDMSchedule(), NoisePrediction()),
}


def noise(n: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def uniform(n: int = 40, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=D)


class Garbage(torch.nn.Module):
    def forward(self, t, x, cond=None):
        return torch.full_like(x, 123.0)


class Recorder(torch.nn.Module):
    """Of two times; keeps what it is asked and answers with s."""

    takes_end = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def forward(self, t, x, cond=None, s=None):
        self.asked.append((t, s))
        answer = t if s is None else s
        return answer.reshape(-1, 1).expand_as(x) + (0 if cond is None else cond.reshape(-1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("name", PROCESSES)
def test_a_jump_of_no_length_leaves_the_state_whatever_is_predicted(name: str, dtype) -> None:
    process, x = PROCESSES[name], noise().to(dtype)
    for t in (uniform(), 0.0, 1.0, torch.tensor(0.3, dtype=D)):
        assert torch.equal(flow_map(Denoiser(Garbage(), process), t, t, x), x)


@pytest.mark.parametrize("name", PROCESSES)
def test_jumps_along_a_grid_are_ddim(name: str) -> None:
    process = PROCESSES[name]
    denoiser = Denoiser(GAUSSIAN.network(process), process)
    wanted = DDIMSampler(UniformTimeGrid()).sample(denoiser, noise(), 5, save_steps=True)
    x = process.prior(noise())
    for index in range(1, 5):
        x = flow_map(denoiser, wanted.ts[index - 1], wanted.ts[index], x)
        torch.testing.assert_close(x, wanted.ys[index], rtol=1e-9, atol=1e-9)
    # The last step of EDM's grid goes on to σ = 0, a flow map to the process's own state at t = 0.
    tolerance = 1e-9 if name != "edm" else 0.02
    torch.testing.assert_close(flow_map(denoiser, wanted.ts[4], 0.0, x), wanted.ys[5], rtol=tolerance, atol=tolerance)


def test_the_average_velocity_gives_the_exact_map_between_any_times() -> None:
    t = uniform()
    s = t * uniform(seed=2)
    mean, variance = GAUSSIAN.means[0], GAUSSIAN.variances[0]
    x = noise()

    def spread(at):
        return ((1 - at[:, None]) ** 2 * variance + at[:, None] ** 2).sqrt()

    wanted = (1 - s[:, None]) * mean + (x - (1 - t[:, None]) * mean) * spread(s) / spread(t)
    torch.testing.assert_close(flow_map(Denoiser(GaussianMap(), LINEAR), t, s, x), wanted, rtol=1e-12, atol=1e-12)
    ahead = flow_map(Denoiser(GaussianMap(), LINEAR), 1.0, s, x)
    assert not torch.allclose(ahead, flow_map(Denoiser(GAUSSIAN.network(LINEAR), LINEAR), 1.0, s, x), atol=1e-3)


@pytest.mark.parametrize("name", ["linear", "cosine", "trigflow", "vp"])
def test_a_jump_from_noise_to_0_is_the_predicted_data(name: str) -> None:
    process = PROCESSES[name]
    denoiser = Denoiser(GAUSSIAN.network(process), process)
    wanted = denoiser.data(torch.tensor(1.0, dtype=D), noise())
    torch.testing.assert_close(flow_map(denoiser, 1.0, 0.0, noise()), wanted, rtol=1e-9, atol=1e-9)


def test_below_t_min_the_network_is_asked_at_t_min_of_the_same_state_of_the_linear_path() -> None:
    process = PROCESSES["vp"]
    point = GaussianMixture(torch.ones(1), torch.tensor([[0.3, -0.6]]), torch.zeros(1, 2))
    seen = Recorder()
    flow_map(Denoiser(seen, process), 1e-5, 0.0, noise())
    assert float(seen.asked[0][0]) == process.t_min
    assert float(seen.asked[0][1]) == 0.0
    # A point mass is reached from its own state, where the noise is known.
    x = process.sample(point.means.to(D).expand(40, 2), noise(), torch.tensor(1e-3, dtype=D)).x
    found = flow_map(Denoiser(point.network(process), process), 1e-3, 0.0, x)
    torch.testing.assert_close(found, point.means.expand_as(x), rtol=1e-9, atol=1e-9)


def test_a_network_of_one_time_is_left_alone_and_one_of_two_is_told_the_end() -> None:
    single = Denoiser(Garbage(), LINEAR)
    assert single.towards(0.2) is single
    seen = Recorder()
    denoiser = Denoiser(seen, LINEAR)
    denoiser.towards(0.2).velocity(torch.tensor(0.5), noise())
    denoiser.velocity(torch.tensor(0.5), noise())
    assert [None if s is None else float(s) for _, s in seen.asked] == [0.2, None]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: ClippedDenoiser(d, -1e3, 1e3),
        lambda d: ClassifierFreeGuidance(d, 1.0),
        lambda d: AutoGuidance(d, Denoiser(Garbage(), LINEAR), 1.0),
        lambda d: IntervalGuidance(d, lambda inner: ClassifierFreeGuidance(inner, 1.0), times=(0.3, 0.6)),
        lambda d: ClippedDenoiser(ClassifierFreeGuidance(Meter(d), 1.0), -1e3, 1e3),
    ],
    ids=["clipped", "classifier_free", "auto", "interval", "nested"],
)
def test_wrappers_hand_the_end_on_sample_by_sample(wrap) -> None:
    t = torch.linspace(0.05, 1.0, 40, dtype=D)
    s = t / 2
    plain = Denoiser(Recorder(), LINEAR)
    labels = torch.arange(40)
    found = flow_map(wrap(plain), t, s, noise(), labels)
    torch.testing.assert_close(found, flow_map(plain, t, s, noise(), labels), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, noise() - (t - s)[:, None] * (s + labels)[:, None], rtol=1e-12, atol=1e-12)


def test_a_meter_counts_what_its_copies_towards_an_end_spend() -> None:
    meter = Meter(ClassifierFreeGuidance(Denoiser(Recorder(), LINEAR), 1.0))
    for s in (0.5, 0.25):
        flow_map(meter, 1.0, s, noise(), torch.zeros(40))
    assert meter.spent == 4
