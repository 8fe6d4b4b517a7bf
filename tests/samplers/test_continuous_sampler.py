"""Samplers on exact fields: orders, ends, moments, budgets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction, NoisePrediction, VelocityPrediction, VPrediction
from isocline.processes.schedule import EDMSchedule, LinearSchedule, VPCosineSchedule, VPLinearSchedule
from isocline.samplers.consistency import ConsistencySampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import PowerGrid, UniformLogRatioGrid, UniformTimeGrid
from isocline.samplers.guidance import ClassifierFreeGuidance
from isocline.samplers.variable import AngleVariable, LinearPathVariable, NoiseRatioVariable, TimeVariable
from isocline.solvers.explicit import RK4, Dopri5, Euler, Heun
from isocline.solvers.multistep import AdamsBashforth, AdamsBashforthMoulton

D = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
GAUSSIAN = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.tensor([[0.3, 0.1]]))
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction())
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
COSINE = GaussianProcess(VPCosineSchedule(), VPrediction())


def exact(process: GaussianProcess, mixture: GaussianMixture = MIXTURE) -> Denoiser:
    return Denoiser(mixture.network(process), process)


def noise(n: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


@pytest.mark.parametrize(
    ("process", "variable"),
    [(VP, LinearPathVariable()), (LINEAR, TimeVariable()), (COSINE, LinearPathVariable()), (COSINE, AngleVariable())],
)
@pytest.mark.parametrize(("stepper", "order"), [(Euler(), 1), (Heun(), 2)], ids=["euler", "heun"])
def test_samplers_have_their_steppers_order(process, variable, stepper, order: int) -> None:
    denoiser, x1 = exact(process), noise()

    def result(method, n: int) -> torch.Tensor:
        sampler = ContinuousSampler(method, UniformTimeGrid(), variable)
        return sampler.sample(denoiser, x1, n * method.nfe_per_step + method.init_nfe).final

    truth = result(RK4(), 400)
    errors = [float((result(stepper, n) - truth).abs().mean()) for n in (32, 64, 128)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.25), errors


@pytest.mark.parametrize(("stepper", "order"), [(Euler(), 1), (Heun(), 2)], ids=["ddim", "heun"])
def test_ddim_has_order_one_and_heun_two_in_the_noise_ratio(stepper, order: int) -> None:
    denoiser, x1 = exact(VP), noise()

    def result(method, n: int) -> torch.Tensor:
        # t(s) is smooth on this span and uniform times refine every interval, the last one too.
        return ContinuousSampler(method, UniformTimeGrid(), NoiseRatioVariable()).sample(
            denoiser, x1, n * method.nfe_per_step
        ).final  # fmt: skip

    truth = result(RK4(), 800)
    errors = [float((result(stepper, n) - truth).abs().mean()) for n in (100, 200, 400)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.3), errors


@pytest.mark.parametrize("variable", [NoiseRatioVariable(), LinearPathVariable()])
def test_euler_is_ddim(variable) -> None:
    denoiser, x1 = exact(VP), noise()
    solution = ContinuousSampler(Euler(), UniformTimeGrid(), variable).sample(denoiser, x1, 10, save_steps=True)
    x = x1 * VP.schedule(1.0).sigma
    for i, (t, s) in enumerate(itertools.pairwise(solution.ts)):
        torch.testing.assert_close(solution.ys[i], x, rtol=1e-8, atol=1e-10)
        here, there = VP.schedule(t), VP.schedule(s)
        eps = denoiser.noise(t, x)
        data = (x - here.sigma * eps) / here.alpha
        x = there.alpha * data + there.sigma * eps
    torch.testing.assert_close(solution.final, x, rtol=1e-8, atol=1e-10)
    assert float(solution.ts[0]) == pytest.approx(1, abs=1e-12)
    assert solution.ts[-1] == 0


@pytest.mark.parametrize("process", [VP, GaussianProcess(EDMSchedule(0.002, 80), NoisePrediction())], ids=["vp", "edm"])
def test_the_last_step_reaches_data_and_leaves_no_noise(process: GaussianProcess) -> None:
    points = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.zeros(1, 2))
    for nfe in (1, 2, 5):
        sampler = ContinuousSampler(Euler(), UniformTimeGrid(), NoiseRatioVariable())
        final = sampler.sample(exact(process, points), noise(), nfe).final
        torch.testing.assert_close(final, points.means.expand_as(final), rtol=0, atol=1e-9)


def test_a_point_mass_is_reached_in_one_euler_step_of_the_linear_flow() -> None:
    points = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.2]]), torch.zeros(1, 2))
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable())
    final = sampler.sample(exact(LINEAR, points), noise(), 1).final
    torch.testing.assert_close(final, points.means.expand_as(final), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("process", "sampler"),
    [
        (LINEAR, ContinuousSampler(Heun(), UniformTimeGrid(), TimeVariable())),
        (VP, ContinuousSampler(Heun(), UniformLogRatioGrid(), NoiseRatioVariable())),
        (COSINE, ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())),
        (
            GaussianProcess(EDMSchedule(0.002, 80), DataPrediction(), t_min=1e-9),
            ContinuousSampler(Heun(), PowerGrid(), NoiseRatioVariable()),
        ),
    ],
    ids=["linear", "vp", "cosine", "edm"],
)
def test_the_flow_carries_noise_to_the_mixture(process, sampler) -> None:
    x = sampler.sample(exact(process), noise(20_000), 60).final
    torch.testing.assert_close(x.mean(0), MIXTURE.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(x.T.cov(), MIXTURE.covariance, rtol=0, atol=0.02)
    # Third moments: a Gaussian with the right covariance would not pass.
    true = MIXTURE.sample(200_000, torch.Generator().manual_seed(9))
    skew, expected = (((z - z.mean(0)) ** 3).mean(0) for z in (x, true))
    torch.testing.assert_close(skew, expected, rtol=0, atol=0.03)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize(
    ("stepper", "nfe", "spent"),
    [
        (Euler(), 7, 7),
        (Heun(), 8, 8),
        (Heun(), 9, 8),
        (Heun(), 1, 1),
        (RK4(), 3, 3),
        (Dopri5(), 8, 7),
        (Dopri5(), 6, 6),
        (AdamsBashforth(4), 12, 12),
        (AdamsBashforth(4), 16, 16),
        (AdamsBashforth(4), 7, 4),
        (AdamsBashforthMoulton(4), 20, 19),
        (AdamsBashforthMoulton(4), 8, 5),
    ],
)
def test_budgets_are_kept_and_counted_per_forward(stepper, nfe: int, spent: int) -> None:
    calls = 0

    class Counted(torch.nn.Module):
        def forward(self, t, x, cond=None):
            nonlocal calls
            calls += 1
            return -x

    solution = ContinuousSampler(stepper, UniformTimeGrid(), TimeVariable()).sample(
        Denoiser(Counted(), LINEAR), noise(3), nfe
    )
    assert solution.stats.nfe.tolist() == [spent] * 3
    assert calls == spent


def test_no_budget_is_an_error() -> None:
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable())
    with pytest.raises(ValueError, match="nfe=0"):
        sampler.sample(exact(LINEAR), noise(), 0)


def test_a_sample_does_not_depend_on_its_batch_and_keeps_its_dtype() -> None:
    sampler = ContinuousSampler(Heun(), UniformTimeGrid(), TimeVariable())
    x1 = noise(8).float()
    alone, together = sampler.sample(exact(LINEAR), x1[:1], 8).final, sampler.sample(exact(LINEAR), x1, 8).final
    assert together.dtype == torch.float32
    assert torch.equal(alone[0], together[0])


class Labelled(torch.nn.Module):
    """The flow to N(m, v), with m = ±1 by label, 0 without one."""

    def forward(self, t, x, cond=None):
        self.calls = getattr(self, "calls", 0) + 1
        mean = torch.zeros_like(x) if cond is None else (2.0 * cond[:, None] - 1).to(x) * torch.ones_like(x)
        return x / max(float(t), 1e-6) - mean / max(float(t), 1e-6)


def test_guidance_extrapolates_and_counts_both_forwards() -> None:
    network, labels = Labelled(), torch.tensor([0, 1])
    guided = ClassifierFreeGuidance(Denoiser(network, LINEAR), 2.5)
    solution = ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable()).sample(guided, noise(2), 8, cond=labels)
    assert network.calls == 8
    assert solution.stats.nfe.tolist() == [8, 8]
    # The field of a point mass at s·m: exact in any number of Euler steps.
    torch.testing.assert_close(solution.final, torch.tensor([[-2.5, -2.5], [2.5, 2.5]], dtype=D))


@pytest.mark.parametrize(("scale", "same_as"), [(1.0, "conditional"), (0.0, "unconditional")])
def test_guidance_of_one_is_conditional_and_of_zero_unconditional(scale: float, same_as: str) -> None:
    plain, labels = Denoiser(Labelled(), LINEAR), torch.tensor([0, 1])
    t, x = torch.tensor(0.4, dtype=D), noise(2)
    expected = plain.velocity(t, x, labels if same_as == "conditional" else None)
    torch.testing.assert_close(ClassifierFreeGuidance(plain, scale).velocity(t, x, labels), expected)


def test_guidance_demands_a_condition_and_two_forwards() -> None:
    guided = ClassifierFreeGuidance(Denoiser(Labelled(), LINEAR), 2.0)
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), TimeVariable())
    with pytest.raises(ValueError, match="cond=None"):
        sampler.sample(guided, noise(2), 2)
    with pytest.raises(ValueError, match="nfe=1"):
        sampler.sample(guided, noise(2), 1, cond=torch.tensor([0, 1]))


class TrueConsistency(torch.nn.Module):
    """Velocity whose data prediction is the exact flow map to t = 0 for Gaussian data N(m, v) on the linear path."""

    def __init__(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.sd = mean.double(), variance.double().sqrt()

    def forward(self, t, x, cond=None):
        t = t.reshape(-1, 1)
        spread = ((1 - t) ** 2 * self.sd**2 + t**2).sqrt()
        data = self.mean + self.sd * (x - (1 - t) * self.mean) / spread
        return (x - data) / t.clamp(min=1e-12)


def test_multistep_consistency_sampling_keeps_the_law_of_a_true_consistency_function() -> None:
    network = TrueConsistency(GAUSSIAN.means[0], GAUSSIAN.variances[0])
    denoiser = Denoiser(network, LINEAR)
    for nfe in (1, 2, 4):
        solution = ConsistencySampler().sample(
            denoiser, noise(40_000), nfe, generator=torch.Generator().manual_seed(1), save_steps=True
        )
        assert solution.stats.nfe.unique().tolist() == [nfe]
        assert solution.ts.tolist() == pytest.approx([1 - i / nfe for i in range(nfe + 1)])
        torch.testing.assert_close(solution.final.mean(0), GAUSSIAN.means[0].double(), rtol=0, atol=0.01)
        torch.testing.assert_close(solution.final.var(0), GAUSSIAN.variances[0].double(), rtol=0.04, atol=0)


def test_consistency_sampling_adds_noise_from_the_generator_only() -> None:
    denoiser = Denoiser(TrueConsistency(GAUSSIAN.means[0], GAUSSIAN.variances[0]), LINEAR)
    first, again, other = (
        ConsistencySampler().sample(denoiser, noise(), 3, generator=torch.Generator().manual_seed(s)).final
        for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    ConsistencySampler().sample(denoiser, noise(), 1)
    with pytest.raises(ValueError, match="generator"):
        ConsistencySampler().sample(denoiser, noise(), 2)
