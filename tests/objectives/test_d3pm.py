"""D3PM: divergences of posteriors, the bound of T steps, its continuous limit."""

import itertools

import pytest
import torch
from tests.objectives.enumerated_bound import pairs, small_law
from torch.nn import functional as F

from isocline.datasets.batch import Batch
from isocline.networks.leave_one_out import LeaveOneOut
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.d3pm import DiscreteTimeDiffusion, posterior_costs, survival_costs
from isocline.objectives.gidd import InterpolatingDiffusion
from isocline.objectives.reverse_rate_bound import reverse_rates
from isocline.processes.distance_kernel import DistanceKernel
from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival

LINEAR = LinearSurvival()
KERNELS = {
    "absorbing": AbsorbingKernel(4, LINEAR),
    "uniform": UniformKernel(4, LINEAR),
    "uniform cosine": UniformKernel(4, CosineSurvival()),
    "hybrid": HybridKernel(4, 0.2, 1.0),
}
DISTANCE = DistanceKernel(4, LINEAR, torch.tensor([[0.0], [1.0], [2.5]]))
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def enumerated(process, network, truth, steps):
    objective, total = DiscreteTimeDiffusion(process, steps), 0.0
    for i in range(1, steps + 1):
        here = pairs(truth, process, torch.tensor(i / steps, dtype=torch.float64))
        step = torch.full((len(here.x),), i)
        total += (here.weight * objective.step_costs(network, here.x, here.z, step).divergence.sum(-1)).sum()
    return total


def draw(process, t, count=64, length=5):
    stream = torch.Generator().manual_seed(3)
    x = torch.randint(process.mask, (count, length), generator=stream)
    t = torch.full((count,), t, dtype=torch.float64)
    logits = 2 * torch.randn(count, length, process.vocab_size, generator=stream, dtype=torch.float64)
    return x, process.sample(x, t, stream), t, logits


@pytest.mark.parametrize(("s", "t"), [(0.001, 0.002), (0.3, 0.4), (0.9, 1.0)])
@kernels
def test_the_pass_over_the_vocabulary_is_the_divergence_of_the_posteriors(kernel, s, t):
    x, z, t, logits = draw(kernel, t)
    s = torch.full_like(t, s)
    fast, dense = (costs(kernel, logits, x, z, s, t) for costs in (survival_costs, posterior_costs))
    torch.testing.assert_close(fast.divergence, dense.divergence, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(fast.surprise, dense.surprise, rtol=1e-9, atol=1e-10)


def test_the_surprise_is_that_of_the_law_given_the_noisy_tokens():
    kernel = KERNELS["uniform"]
    x, z, t, logits = draw(kernel, 0.4)
    expected = F.cross_entropy(logits[..., :3].reshape(-1, 3), x.flatten(), reduction="none").view_as(x)
    torch.testing.assert_close(survival_costs(kernel, logits, x, z, 0.5 * t, t).surprise, expected)


@pytest.mark.parametrize("process", [*KERNELS.values(), DISTANCE], ids=[*KERNELS, "distance"])
def test_the_bound_with_the_exact_denoiser_falls_towards_the_entropy(process):
    truth = small_law()
    network = EnumeratedDenoiser(truth, process)
    excess = [enumerated(process, network, truth, steps) - truth.entropy for steps in (1, 2, 8, 32)]
    assert all(after < before for before, after in itertools.pairwise(excess))
    assert 0 < excess[-1] < 0.3 * excess[0]


@pytest.mark.parametrize("process", [KERNELS["absorbing"], KERNELS["uniform"], DISTANCE], ids=["a", "u", "distance"])
def test_the_excess_over_the_entropy_falls_like_one_over_the_steps(process):
    truth = small_law()
    network = EnumeratedDenoiser(truth, process)
    coarse, fine = (n * (enumerated(process, network, truth, n) - truth.entropy) for n in (64, 128))
    torch.testing.assert_close(coarse, fine, rtol=0.05, atol=0)


@kernels
def test_a_short_step_costs_its_length_times_the_continuous_divergence(kernel):
    x, z, t, logits = draw(kernel, 0.4)
    rate = InterpolatingDiffusion(kernel).divergence(reverse_rates(kernel, logits, x, z, t))
    h = 1e-5
    step = survival_costs(kernel, logits, x, z, t - h, t).divergence / h
    torch.testing.assert_close(step, rate, rtol=1e-3, atol=1e-3)


@kernels
def test_the_estimate_of_the_likelihood_is_unbiased(kernel):
    truth = small_law()
    network = EnumeratedDenoiser(truth, kernel)
    stream = torch.Generator().manual_seed(1)
    tokens = truth.sample(8000, stream)
    found = DiscreteTimeDiffusion(kernel, 6).negative_log_likelihood(network, tokens, stream, strata=6)
    assert found.kind == "bound"
    excess = found.nats - truth.nats(tokens)
    error = excess.std() / len(excess) ** 0.5
    assert (excess.mean() - (enumerated(kernel, network, truth, 6) - truth.entropy)).abs() < 4 * error
    assert error < 0.02


def test_the_training_loss_averages_to_the_bound_per_token():
    truth, kernel = small_law(), KERNELS["uniform"]
    network = EnumeratedDenoiser(truth, kernel)
    stream = torch.Generator().manual_seed(2)
    objective = DiscreteTimeDiffusion(kernel, 6, cross_entropy=0.5)
    losses = [objective(network, Batch(truth.sample(600, stream)), stream) for _ in range(60)]
    bounds = torch.stack([loss.terms["nats_per_token"] for loss in losses])
    error = bounds.std() / len(bounds) ** 0.5
    assert (bounds.mean() - enumerated(kernel, network, truth, 6) / 2).abs() < 4 * error
    assert error < 0.02
    for loss in losses:
        torch.testing.assert_close(loss.total, loss.terms["nats_per_token"] + 0.5 * loss.terms["cross_entropy"])


@pytest.mark.parametrize("steps", [1, 2, 1000])
@pytest.mark.parametrize("process", [*KERNELS.values(), DISTANCE], ids=[*KERNELS, "distance"])
def test_loss_and_gradient_are_finite_at_the_first_and_the_last_step(process, steps):
    for end in (0.0, 1.0):
        fixed = lambda count, process, generator, end=end: torch.full((count,), end, dtype=torch.float64)  # noqa: E731
        torch.manual_seed(0)
        network = TokenTransformer(4, 3, 16, 1, 2)
        if process is not DISTANCE:
            network = LeaveOneOut(network, process)
        objective = DiscreteTimeDiffusion(process, steps, times=fixed)
        loss = objective(network, Batch(torch.randint(3, (16, 3))), torch.Generator().manual_seed(0))
        loss.total.backward()
        assert loss.total.isfinite()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_one_step_is_the_independent_model():
    """T = 1: every token is drawn from its marginal, given nothing."""
    truth, kernel = small_law(), KERNELS["absorbing"]
    marginals = torch.stack(
        [(F.one_hot(truth.sequences[:, i]).double() * truth.probs[:, None]).sum(0) for i in range(2)]
    )
    expected = -torch.special.xlogy(marginals, marginals).sum()
    torch.testing.assert_close(enumerated(kernel, EnumeratedDenoiser(truth, kernel), truth, 1), expected)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="steps = 0"):
        DiscreteTimeDiffusion(KERNELS["uniform"], 0)
    with pytest.raises(ValueError, match="cross_entropy = -1"):
        DiscreteTimeDiffusion(KERNELS["uniform"], 10, cross_entropy=-1)
