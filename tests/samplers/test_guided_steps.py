"""CFG++ and Rectified-CFG++: the identities with classifier-free guidance, order in the step, cost."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.samplers.labelled_mixture import CLASSES, D, Labelled

from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.guidance import ClassifierFreeGuidance
from isocline.samplers.guided_steps import CFGPlusPlusSampler, RectifiedCFGPlusPlusSampler
from isocline.samplers.variable import LinearPathVariable, TimeVariable
from isocline.solvers.explicit import RK4, Euler

LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
LABELS = torch.tensor([0, 1] * 4)


def noise(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=D)


@pytest.mark.parametrize("process", [LINEAR, VP], ids=["linear", "vp"])
def test_cfg_plus_plus_without_guidance_is_unconditional_ddim(process: GaussianProcess) -> None:
    denoiser = Denoiser(Labelled(process), process)
    found = CFGPlusPlusSampler(0.0).sample(denoiser, noise(), 16, LABELS).final
    times = torch.linspace(process.t_max, process.t_min, 9, dtype=D)
    x = process.prior(noise())
    for index, t in enumerate(times[:-1]):  # DDIM written out: predict data and noise, mix them at the next time
        values = process.schedule(times[index + 1] if index < 7 else 0.0)
        x = process.mix(denoiser.data(t, x), denoiser.noise(t, x), values)
    torch.testing.assert_close(found, x)


def test_cfg_plus_plus_is_classifier_free_guidance_with_a_weight_that_depends_on_the_step() -> None:
    denoiser, scale = Denoiser(Labelled(VP), VP), 0.7
    found = CFGPlusPlusSampler(scale).sample(denoiser, noise(), 12, LABELS, save_steps=True)
    times = [*torch.linspace(VP.t_max, VP.t_min, 7, dtype=D)[:-1].tolist(), 0.0]
    x = VP.prior(noise())
    for before, after in itertools.pairwise(times):
        values, next_values = VP.schedule(before), VP.schedule(after)
        r, r_next = values.sigma / values.alpha, next_values.sigma / next_values.alpha
        weight = float(scale * r / (r - r_next))
        epsilon = ClassifierFreeGuidance(denoiser, weight).noise(torch.tensor(before, dtype=D), x, LABELS)
        x = next_values.alpha * (x / values.alpha + (r_next - r) * epsilon)
    torch.testing.assert_close(found.final, x)


class Adaptive(AbstractDenoiser):
    """Classifier-free guidance of scale 1 + w(t): what Rectified-CFG++ tends to."""

    evaluations = 2

    def __init__(self, denoiser: Denoiser, scale: float, power: float) -> None:
        self.denoiser, self.scale, self.power = denoiser, scale, power

    @property
    def process(self) -> GaussianProcess:
        return self.denoiser.process

    def predict(self, t, x, cond, to):  # type: ignore[no-untyped-def]
        weight = float(1 + self.scale * (1 - t) ** self.power)
        return ClassifierFreeGuidance(self.denoiser, weight).predict(t, x, cond, to)


def test_rectified_cfg_plus_plus_tends_to_adaptive_guidance_with_order_one() -> None:
    denoiser = Denoiser(Labelled(LINEAR), LINEAR)
    exact = ContinuousSampler(RK4(), UniformTimeGrid(), TimeVariable()).sample(
        Adaptive(denoiser, 1.5, 1.0), noise(), 8 * 800, LABELS
    )
    errors = [
        float(
            (RectifiedCFGPlusPlusSampler(1.5, 1.0).sample(denoiser, noise(), 3 * n, LABELS).final - exact.final)
            .abs()
            .mean()
        )
        for n in (100, 200, 400)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.2


def test_a_step_of_rectified_cfg_plus_plus_is_the_article_s() -> None:
    denoiser, scale, power = Denoiser(Labelled(LINEAR), LINEAR), 1.5, 0.5
    found = RectifiedCFGPlusPlusSampler(scale, power).sample(denoiser, noise(), 12, LABELS, save_steps=True)
    for index, (before, after) in enumerate(itertools.pairwise(found.ts)):
        x, width = found.ys[index], after - before
        conditional = denoiser.velocity(before, x, LABELS)
        middle, guess = before + width / 2, x + width / 2 * conditional
        difference = denoiser.velocity(middle, guess, LABELS) - denoiser.velocity(middle, guess)
        velocity = conditional + scale * (1 - before) ** power * difference
        torch.testing.assert_close(found.ys[index + 1], x + width * velocity)


def test_rectified_cfg_plus_plus_without_weight_is_conditional_euler() -> None:
    denoiser = Denoiser(Labelled(LINEAR), LINEAR)
    found = RectifiedCFGPlusPlusSampler(0.0).sample(denoiser, noise(), 24, LABELS).final
    wanted = ContinuousSampler(Euler(), UniformTimeGrid(), LinearPathVariable()).sample(denoiser, noise(), 8, LABELS)
    torch.testing.assert_close(found, wanted.final)


@pytest.mark.parametrize(
    ("sampler", "cost"), [(CFGPlusPlusSampler(), 2), (RectifiedCFGPlusPlusSampler(), 3)], ids=["cfg", "rectified"]
)
def test_every_forward_of_a_step_is_counted_and_samples_reach_their_class(sampler, cost: int) -> None:  # type: ignore[no-untyped-def]
    network = Labelled(LINEAR)
    solution = sampler.sample(Denoiser(network, LINEAR), noise(), 60, LABELS)
    assert solution.stats.nfe.tolist() == [network.calls] * 8 == [60] * 8
    distance = torch.stack([(solution.final[:, None] - part.means).square().sum(-1).amin(1) for part in CLASSES])
    assert torch.equal(distance.argmin(0), LABELS)
    with pytest.raises(ValueError, match="does not pay"):
        sampler.sample(Denoiser(network, LINEAR), noise(), cost - 1, LABELS)
    with pytest.raises(ValueError, match="labels"):
        sampler.sample(Denoiser(network, LINEAR), noise(), 60)


def test_a_power_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="power"):
        RectifiedCFGPlusPlusSampler(power=-1.0)
