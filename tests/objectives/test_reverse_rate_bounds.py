"""Score entropy, UDLM and GIDD: each formula as published, their identities, and the entropy of a known law."""

import pytest
import torch
from tests.objectives.enumerated_bound import integral, pairs, small_law
from torch.nn import functional as F

from isocline.datasets.batch import Batch
from isocline.networks.leave_one_out import LeaveOneOut
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.gidd import InterpolatingDiffusion
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.reverse_rate_bound import reverse_rates
from isocline.objectives.score_entropy import ScoreEntropy
from isocline.objectives.udlm import UniformDiffusion
from isocline.processes.distance_kernel import DistanceKernel
from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.frequency_kernel import FrequencyKernel
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.leave_one_out import evidence
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival

LINEAR = LinearSurvival()
KERNELS = {
    "absorbing": AbsorbingKernel(4, LINEAR),
    "absorbing cosine": AbsorbingKernel(4, CosineSurvival()),
    "uniform": UniformKernel(4, LINEAR),
    "uniform cosine": UniformKernel(4, CosineSurvival()),
    "hybrid": HybridKernel(4, 0.2, 1.0),
    "hybrid gamma 2": HybridKernel(4, 0.4, 2.0),
    "masks of a hybrid": HybridKernel(4, 0.0),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
times = pytest.mark.parametrize("t", [0.02, 0.4, 0.97])


def draw(kernel, t, count=64, length=5, spread=2.0):
    """Random clean tokens, their corruption, and arbitrary logits."""
    stream = torch.Generator().manual_seed(3)
    x = torch.randint(kernel.mask, (count, length), generator=stream)
    t = torch.full((count,), t, dtype=torch.float64)
    logits = spread * torch.randn(count, length, kernel.vocab_size, generator=stream, dtype=torch.float64)
    return x, kernel.sample(x, t, stream), t, logits


def dense(kernel, logits, x, z, t):
    """q_t(·|x), q_t(·|x_loo) and the rates into z, over the whole vocabulary, straight from their definitions."""
    probs = kernel.clean_log_probs(logits, z).exp()
    weights = kernel.likelihood_ratio(z, t, probs)
    plug_in = weights / weights.sum(-1, keepdim=True)
    a, noise = kernel.schedule.a(t)[:, None, None], kernel.noise(t)[:, None]
    return a * F.one_hot(x, kernel.vocab_size) + noise, a * plug_in + noise, kernel.rates_into(t, z)


def at(values, z):
    return values.gather(-1, z.unsqueeze(-1))


def finite_log(ratio):
    return torch.where(ratio > 0, ratio, 1.0).log()


@times
@kernels
def test_score_entropy_is_the_sum_over_all_other_symbols_of_its_paper(kernel, t):
    x, z, t, logits = draw(kernel, t)
    truth, model, rates = dense(kernel, logits, x, z, t)
    r, s = truth / at(truth, z), model / at(model, z)
    terms = rates * (s - r * finite_log(s) + r * (finite_log(r) - 1))
    terms = terms.scatter(-1, z.unsqueeze(-1), 0.0)
    found = ScoreEntropy(kernel).divergence(reverse_rates(kernel, logits, x, z, t))
    torch.testing.assert_close(found, terms.sum(-1), rtol=1e-9, atol=1e-10)


@times
@pytest.mark.parametrize("schedule", [LINEAR, CosineSurvival()], ids=["linear", "cosine"])
def test_udlm_is_the_expression_of_its_paper(schedule, t):
    kernel = UniformKernel(4, schedule)
    x, z, t, logits = draw(kernel, t)
    truth, model, _ = dense(kernel, logits, x, z, t)
    bar, model = 3 * truth[..., :3], 3 * model[..., :3]
    ratio = at(model, z) * bar / (model * at(bar, z))
    bracket = 3 / at(bar, z) - 3 / at(model, z) - (bar / at(bar, z) * ratio.log()).sum(-1, keepdim=True)
    a, da = schedule.a(t)[:, None], schedule.da(t)[:, None]
    found = UniformDiffusion(kernel).divergence(reverse_rates(kernel, logits, x, z, t))
    torch.testing.assert_close(found, da / (3 * a) * bracket.squeeze(-1), rtol=1e-9, atol=1e-10)


@times
@kernels
def test_gidd_is_the_expression_of_its_paper(kernel, t):
    x, z, t, logits = draw(kernel, t)
    truth, model, _ = dense(kernel, logits, x, z, t)
    decay = (kernel.schedule.da(t) / kernel.schedule.a(t))[:, None]
    weight = (kernel.noise_rate(t) - decay * kernel.noise(t))[:, None].expand_as(truth)
    rho = at(truth, z) / at(model, z)
    divergence = (truth * finite_log(truth) - truth * finite_log(model)).sum(-1, keepdim=True)
    expected = at(weight, z) / at(truth, z) * (divergence + rho - rho.log() - 1)
    found = InterpolatingDiffusion(kernel).divergence(reverse_rates(kernel, logits, x, z, t))
    torch.testing.assert_close(found, expected.squeeze(-1), rtol=1e-9, atol=1e-10)


@times
def test_masked_gidd_without_uniform_noise_and_sedd_absorb_agree_point_by_point(t):
    kernel = KERNELS["absorbing"]
    x, z, t, logits = draw(kernel, t)
    network = lambda t, z, cond=None: logits  # noqa: E731
    masked = kernel.schedule.hazard(t) * MaskedDiffusion(kernel).cross_entropy(network, x, z, t)
    for objective in (
        ScoreEntropy(kernel),
        InterpolatingDiffusion(HybridKernel(4, 0.0)),
        InterpolatingDiffusion(kernel),
    ):
        found = objective.divergence(reverse_rates(objective.process, logits, x, z, t)).sum(-1)
        torch.testing.assert_close(found, masked, rtol=1e-10, atol=1e-10)


@times
def test_udlm_gidd_and_sedd_agree_point_by_point_on_the_uniform_kernel(t):
    kernel = KERNELS["uniform"]
    x, z, t, logits = draw(kernel, t)
    rates = reverse_rates(kernel, logits, x, z, t)
    udlm, gidd, sedd = (
        kind(kernel).divergence(rates) for kind in (UniformDiffusion, InterpolatingDiffusion, ScoreEntropy)
    )
    torch.testing.assert_close(udlm, gidd, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(udlm, sedd, rtol=1e-10, atol=1e-10)


def enumerated(objective, network, truth, start=0.0):
    """The integral from ``start`` and what the reconstruction there costs on average."""

    def at_time(t):
        here = pairs(truth, objective.process, t)
        time = t.expand(len(here.x))
        rates = reverse_rates(objective.process, network(time, here.z), here.x, here.z, time)
        return (here.weight * objective.divergence(rates).sum(-1)).sum()

    total = integral(at_time, start)
    if start:
        t = torch.tensor(start, dtype=torch.float64)
        here = pairs(truth, objective.process, t)
        log_probs = objective.process.clean_log_probs(network(t, here.z), here.z)
        total = total - (here.weight * at(log_probs, here.x).squeeze(-1).sum(-1)).sum()
    return total


@pytest.mark.parametrize("kind", [ScoreEntropy, InterpolatingDiffusion])
@kernels
def test_the_bound_with_the_exact_denoiser_is_the_entropy(kernel, kind):
    truth = small_law()
    found = enumerated(kind(kernel), EnumeratedDenoiser(truth, kernel), truth)
    torch.testing.assert_close(found, truth.entropy, rtol=1e-6, atol=0)


def test_udlm_with_the_exact_denoiser_is_the_entropy():
    truth, kernel = small_law(), KERNELS["uniform"]
    found = enumerated(UniformDiffusion(kernel), EnumeratedDenoiser(truth, kernel), truth)
    torch.testing.assert_close(found, truth.entropy, rtol=1e-6, atol=0)


def test_the_bound_holds_for_noise_that_follows_frequencies():
    truth = small_law()
    kernel = FrequencyKernel(4, LINEAR, [5.0, 2.0, 1.0])
    found = enumerated(InterpolatingDiffusion(kernel), EnumeratedDenoiser(truth, kernel), truth)
    torch.testing.assert_close(found, truth.entropy, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_the_law_given_all_tokens_in_place_of_the_leave_one_out_law_makes_the_bound_loose(name):
    truth, kernel = small_law(), KERNELS[name]
    exact = EnumeratedDenoiser(truth, kernel)

    def doubled(t, z, cond=None):
        # The objective takes the evidence of z off once, and is left with p(x|z).
        own = evidence(kernel, z, t)
        return exact(t, z).scatter_add(-1, z.unsqueeze(-1), own.unsqueeze(-1))

    assert enumerated(InterpolatingDiffusion(kernel), doubled, truth) > truth.entropy + 0.1


@kernels
def test_an_inexact_network_lies_above_the_entropy(kernel):
    truth = small_law()
    exact = EnumeratedDenoiser(truth, kernel)
    flattened = lambda t, z, cond=None: 0.7 * exact(t, z)  # noqa: E731
    assert enumerated(InterpolatingDiffusion(kernel), flattened, truth) > truth.entropy + 0.01


@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize(
    ("kind", "name"), [(ScoreEntropy, "absorbing"), (UniformDiffusion, "uniform"), (InterpolatingDiffusion, "hybrid")]
)
def test_the_estimate_of_the_likelihood_is_unbiased_and_a_bound(kind, name, start):
    truth, kernel = small_law(), KERNELS[name]
    network = EnumeratedDenoiser(truth, kernel)
    stream = torch.Generator().manual_seed(1)
    tokens = truth.sample(12_000, stream)
    found = kind(kernel, start=start).negative_log_likelihood(network, tokens, stream, strata=4)
    assert found.kind == "bound"
    excess = found.nats - truth.nats(tokens)
    error = excess.std() / len(excess) ** 0.5
    expected = enumerated(kind(kernel), network, truth, start) - truth.entropy
    assert expected > (1e-3 if start else -1e-6)
    assert (excess.mean() - expected).abs() < 4 * error
    assert error < 0.03


@pytest.mark.parametrize(
    ("kind", "name"), [(ScoreEntropy, "absorbing"), (UniformDiffusion, "uniform"), (InterpolatingDiffusion, "hybrid")]
)
def test_the_training_loss_averages_to_the_bound_per_token(kind, name):
    truth, kernel = small_law(), KERNELS[name]
    network = EnumeratedDenoiser(truth, kernel)
    stream = torch.Generator().manual_seed(2)
    losses = torch.stack([kind(kernel)(network, Batch(truth.sample(500, stream)), stream).total for _ in range(60)])
    error = losses.std() / len(losses) ** 0.5
    assert (losses.mean() - truth.entropy / 2).abs() < 4 * error
    assert error < 0.04 * truth.entropy


@kernels
def test_a_large_vocabulary_in_float32_costs_no_more_than_rounding(kernel):
    big = type(kernel)(1024, kernel.schedule) if not isinstance(kernel, HybridKernel) else HybridKernel(1024, 0.2)
    objective = InterpolatingDiffusion(big)
    for time in (1e-9, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-9):
        x, z, t, logits = draw(big, time, count=32)
        fine = objective.divergence(reverse_rates(big, logits, x, z, t))
        coarse = objective.divergence(reverse_rates(big, logits.float(), x, z, t))
        assert fine.isfinite().all()
        assert (fine > -1e-9).all()
        torch.testing.assert_close(coarse, fine, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [ScoreEntropy, InterpolatingDiffusion])
@kernels
def test_the_gradient_is_that_of_finite_differences(kernel, kind):
    x, z, t, logits = draw(kernel, 0.4, count=3, length=2)

    def loss(logits):
        return kind(kernel).divergence(reverse_rates(kernel, logits, x, z, t))

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize(
    ("kind", "name"), [(ScoreEntropy, "absorbing"), (UniformDiffusion, "uniform"), (InterpolatingDiffusion, "hybrid")]
)
def test_gradients_are_finite_at_both_ends_of_time(kind, name):
    kernel = KERNELS[name]
    for end in (0.0, 1.0):
        fixed = lambda count, process, generator, end=end: torch.full((count,), end, dtype=torch.float64)  # noqa: E731
        torch.manual_seed(0)
        network = LeaveOneOut(TokenTransformer(4, 3, 16, 1, 2), kernel)
        loss = kind(kernel, times=fixed)(network, Batch(torch.randint(3, (16, 3))), torch.Generator().manual_seed(0))
        loss.total.backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        assert loss.total.isfinite()
        assert all(g.isfinite().all() for g in grads)


def test_a_loss_repeats_with_its_generator():
    kernel = KERNELS["uniform"]
    network = EnumeratedDenoiser(small_law(), kernel)
    batch = Batch(small_law().sequences)
    first, second = (UniformDiffusion(kernel)(network, batch, torch.Generator().manual_seed(5)).total for _ in range(2))
    assert first == second


def test_kernels_and_starts_that_do_not_suit_are_refused():
    with pytest.raises(TypeError, match="AbsorbingKernel"):
        UniformDiffusion(KERNELS["absorbing"])
    with pytest.raises(TypeError, match="DistanceKernel"):
        ScoreEntropy(DistanceKernel.__new__(DistanceKernel))
    with pytest.raises(ValueError, match="start = 1"):
        UniformDiffusion(KERNELS["uniform"], start=1.0)
