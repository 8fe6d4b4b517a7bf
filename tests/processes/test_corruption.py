"""Every corruption against ordered matrix exponentials and Bayes' rule, V ≤ 8, float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.processes.distance_kernel import DistanceKernel
from isocline.processes.frequency_kernel import FrequencyKernel
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel, UniformKernel
from isocline.processes.learned_schedule import MonotoneSurvival, PolynomialTokenSurvival
from isocline.processes.span_kernel import FixedSpans, GeometricSpans, SpanKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival, PolynomialSurvival
from isocline.processes.tokenwise_kernel import TokenwiseAbsorbingKernel

V = 5


def points(count, seed=0):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent_schedule():
    schedule = MonotoneSurvival(4)
    with torch.no_grad():
        schedule.log_heights.copy_(torch.tensor([1.0, -1.0, 0.5, -2.0]))
    return schedule.requires_grad_(False)


def tokenwise():
    schedule = PolynomialTokenSurvival(V).requires_grad_(False)
    schedule.log_exponents.copy_(torch.tensor([0.5, 1.0, 2.0, 3.0, 1.0]).log())
    return TokenwiseAbsorbingKernel(V, schedule)


KERNELS = {
    "absorbing": AbsorbingKernel(V, LinearSurvival()),
    "uniform": UniformKernel(V, CosineSurvival()),
    "uniform8": UniformKernel(8, PolynomialSurvival(2)),
    "learned": UniformKernel(V, bent_schedule()),
    "hybrid": HybridKernel(V, 0.2, 1.0),
    "hybrid, gamma 2": HybridKernel(V, 0.7, 2.0),
    "hybrid, masks only": HybridKernel(V, 0.0),
    "frequency": FrequencyKernel(V, LinearSurvival(), [1, 2, 3, 10]),
    "distance": DistanceKernel(V, LinearSurvival(), points(V - 1)),
    "distance, frequencies": DistanceKernel(8, CosineSurvival(), points(7, 1), 0.4, [1, 2, 3, 4, 5, 6, 7]),
    "span": SpanKernel(V, LinearSurvival(), GeometricSpans(2.0)),
    "span, fixed": SpanKernel(V, CosineSurvival(), FixedSpans(2)),
    "tokenwise": tokenwise(),
}
kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
with_noise = pytest.mark.parametrize("name", [name for name, k in KERNELS.items() if isinstance(k, AbstractKernel)])
any_kernel = st.sampled_from(list(KERNELS.values()))
inner_times = st.tuples(st.floats(0.03, 0.97), st.floats(0.03, 0.97)).map(sorted).filter(lambda p: p[1] - p[0] > 0.02)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def row(k):
    """The clean symbol ``k`` as a law."""
    return torch.nn.functional.one_hot(torch.tensor([[k]]), 8).double()


def ordered_exponentials(kernel, s, t, steps=150):
    """P(s, t) by the fourth-order Magnus method on P' = P Q_t: two Gauss points and their commutator."""
    product = torch.eye(kernel.vocab_size, dtype=torch.float64)
    grid = torch.linspace(s, t, steps + 1, dtype=torch.float64)
    for left, right in itertools.pairwise(grid):
        h, middle = right - left, (left + right) / 2
        early, late = (kernel.forward_rate(middle + sign * h * math.sqrt(3) / 6) for sign in (-1, 1))
        commutator = early @ late - late @ early
        product = product @ torch.linalg.matrix_exp(h / 2 * (early + late) + math.sqrt(3) * h**2 / 12 * commutator)
    return product


@kernels
def test_ordered_exponentials_of_the_generator_are_the_transition(kernel):
    found = ordered_exponentials(kernel, 0.2, 0.7)
    torch.testing.assert_close(found, kernel.transition(scalar(0.2), scalar(0.7)), rtol=0, atol=1e-10)


def test_generators_of_the_hybrid_kernel_do_not_commute_and_one_exponential_is_wrong():
    kernel = KERNELS["hybrid"]
    early, late = kernel.forward_rate(scalar(0.2)), kernel.forward_rate(scalar(0.7))
    assert (early @ late - late @ early).abs().max() > 0.1
    nodes = torch.linspace(0.2, 0.7, 401, dtype=torch.float64)
    integral = sum(kernel.forward_rate(m) for m in (nodes[1:] + nodes[:-1]) / 2) * 0.5 / 400
    wrong = torch.linalg.matrix_exp(integral)
    assert (wrong - kernel.transition(scalar(0.2), scalar(0.7))).abs().max() > 1e-3


@settings(max_examples=150, deadline=None)
@given(kernel=any_kernel, times=inner_times, share=st.floats(0.1, 0.9))
def test_transitions_compose_and_are_stochastic(kernel, times, share):
    s, t = map(scalar, times)
    middle = s + share * (t - s)
    whole = kernel.transition(s, t)
    torch.testing.assert_close(kernel.transition(s, middle) @ kernel.transition(middle, t), whole, rtol=0, atol=1e-10)
    assert (whole >= 0).all()
    torch.testing.assert_close(whole.sum(-1), torch.ones(kernel.vocab_size, dtype=torch.float64), rtol=0, atol=1e-10)


@settings(max_examples=150, deadline=None)
@given(kernel=any_kernel, t=st.floats(0.02, 0.98))
def test_rows_of_generators_sum_to_zero_and_no_rate_is_negative(kernel, t):
    rate = kernel.forward_rate(scalar(t))
    torch.testing.assert_close(rate.sum(-1), torch.zeros(kernel.vocab_size, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (rate - rate.diag().diag() >= -1e-12).all()


@kernels
def test_every_row_of_the_last_transition_is_the_stationary_law(kernel):
    last = kernel.transition(scalar(0.0), scalar(1.0))
    torch.testing.assert_close(last, kernel.stationary().expand(kernel.vocab_size, -1), rtol=0, atol=1e-12)
    first = kernel.transition(scalar(0.0), scalar(0.0))
    torch.testing.assert_close(first, torch.eye(kernel.vocab_size, dtype=torch.float64), rtol=0, atol=1e-12)


@kernels
def test_the_marginal_is_a_row_of_the_transition_from_data(kernel):
    x = torch.arange(kernel.mask).unsqueeze(1)
    marginal = kernel.marginal(x, scalar(0.6))[:, 0]
    torch.testing.assert_close(marginal, kernel.transition(scalar(0.0), scalar(0.6))[: kernel.mask])


@kernels
def test_a_batch_of_times_is_the_single_times_in_turn(kernel):
    generator = torch.Generator().manual_seed(0)
    z, times = torch.randint(kernel.mask, (3, 2), generator=generator), torch.tensor([0.2, 0.5, 0.9]).double()
    probs = torch.rand(3, 2, kernel.vocab_size, generator=generator, dtype=torch.float64)
    s = times / 2
    for name, args in {
        "marginal": lambda i: (z[i], times[i]),
        "posterior": lambda i: (z[i], s[i], times[i], probs[i]),
        "reverse_rate": lambda i: (times[i], z[i], probs[i]),
    }.items():
        one = [getattr(kernel, name)(*args(slice(i, i + 1))) for i in range(3)]
        torch.testing.assert_close(getattr(kernel, name)(*args(slice(None))), torch.cat(one))


@kernels
def test_samples_follow_the_marginal(kernel):
    draws = 40_000
    x0 = torch.full((draws, 1), 1)
    z = kernel.sample(x0, scalar(0.5), torch.Generator().manual_seed(1))
    share = torch.bincount(z.flatten(), minlength=kernel.vocab_size).double() / draws
    expected = kernel.marginal(x0[:1], scalar(0.5))[0, 0]
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / draws).clamp_min(0).sqrt()).all()


@kernels
def test_a_batch_of_times_corrupts_each_row_by_its_own(kernel):
    x0 = torch.ones(2, 2000, dtype=torch.int64)
    z = kernel.sample(x0, torch.tensor([0.0, 1.0], dtype=torch.float64), torch.Generator().manual_seed(0))
    assert (z[0] == 1).all()
    assert (z[1] == 1).double().mean() < 0.4


@kernels
def test_the_prior_follows_the_stationary_law(kernel):
    draws, expected = 40_000, kernel.stationary()
    z = kernel.prior((draws // 4, 4), torch.Generator().manual_seed(2))
    share = torch.bincount(z.flatten(), minlength=kernel.vocab_size).double() / draws
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / draws).sqrt()).all()


@settings(max_examples=40, deadline=None)
@given(kernel=any_kernel, times=inner_times)
def test_the_posterior_is_bayes_rule(kernel, times):
    s, t = map(scalar, times)
    forward, step = kernel.transition(scalar(0.0), s), kernel.transition(s, t)
    for x in range(kernel.mask):
        for z in range(kernel.vocab_size):
            joint = forward[x] * step[:, z]
            if joint.sum() < 1e-9:
                continue
            found = kernel.posterior(torch.tensor([[z]]), s, t, row(x)[..., : kernel.vocab_size])[0, 0]
            torch.testing.assert_close(found, joint / joint.sum(), rtol=1e-8, atol=1e-10)


def symbol_in_doubt(kernel):
    return torch.tensor([[1 if bool(kernel.undecided(torch.tensor([[1]]))) else kernel.mask]])


@kernels
def test_the_posterior_of_a_mixture_is_the_mixture_of_posteriors(kernel):
    s, t, z = scalar(0.2), scalar(0.9), symbol_in_doubt(kernel)
    probs = torch.rand(1, 1, kernel.vocab_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs[..., kernel.mask] = 0
    probs /= probs.sum(-1, keepdim=True)
    laws = [row(k)[..., : kernel.vocab_size] for k in range(kernel.mask)]
    mixed = kernel.posterior(z, s, t, probs)
    parts = [probs[0, 0, k] * kernel.posterior(z, s, t, law) for k, law in enumerate(laws)]
    torch.testing.assert_close(mixed, sum(parts))
    torch.testing.assert_close(mixed.sum(-1), torch.ones(1, 1, dtype=torch.float64))


@kernels
def test_the_posterior_at_time_zero_is_the_predicted_law(kernel):
    probs = torch.full((1, 1, kernel.vocab_size), 1.0 / kernel.mask, dtype=torch.float64)
    probs[..., kernel.mask] = 0
    found = kernel.posterior(symbol_in_doubt(kernel), scalar(0.0), scalar(0.6), probs)
    torch.testing.assert_close(found, probs, rtol=1e-10, atol=1e-12)


def bayes(kernel, data, t):
    """p_t (V,) and p(x|z) (V, V) for one position with the data law ``data``."""
    joint = data.unsqueeze(-1) * kernel.transition(scalar(0.0), t)
    p = joint.sum(0)
    return p, torch.where(p > 0, joint / p, 0.0).T


def toy_data(kernel):
    data = torch.arange(1.0, kernel.vocab_size + 1, dtype=torch.float64)
    data[kernel.mask] = 0
    return data / data.sum()


def carries_the_marginal_back(kernel, name, t):
    """Kolmogorov: −dp_t/dt = p_t R for the rates of the chain that runs from 1 to 0."""
    data = toy_data(kernel)
    p, posterior = bayes(kernel, data, t)
    z = torch.arange(kernel.vocab_size).unsqueeze(1)
    rates = getattr(kernel, name)(t, z, posterior.unsqueeze(1))[:, 0]
    reached = p > 0
    torch.testing.assert_close(p[reached] @ rates[reached], -(p @ kernel.forward_rate(t)), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        rates.sum(-1)[reached], torch.zeros(int(reached.sum()), dtype=torch.float64), rtol=0, atol=1e-10
    )
    off = rates - rates.diag().diag()
    assert (off[reached] >= -1e-12).all()


@settings(max_examples=100, deadline=None)
@given(kernel=any_kernel, t=st.floats(0.05, 0.95))
def test_reversed_rates_carry_the_marginal_back_in_time(kernel, t):
    carries_the_marginal_back(kernel, "reverse_rate", scalar(t))


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from([n for n, k in KERNELS.items() if isinstance(k, AbstractKernel)]), t=st.floats(0.05, 0.95))
def test_flow_matching_rates_carry_the_marginal_back_in_time(name, t):
    carries_the_marginal_back(KERNELS[name], "flow_rate", scalar(t))


@kernels
def test_the_reverse_rate_is_the_time_reversal_of_the_generator(kernel):
    t, data = scalar(0.55), toy_data(kernel)
    p, posterior = bayes(kernel, data, t)
    z = torch.arange(kernel.vocab_size).unsqueeze(1)
    found = kernel.reverse_rate(t, z, posterior.unsqueeze(1))[:, 0]
    expected = kernel.forward_rate(t).T * p.unsqueeze(0) / p.unsqueeze(1)
    off = ~torch.eye(kernel.vocab_size, dtype=torch.bool) & (p > 0).unsqueeze(1)
    torch.testing.assert_close(found[off], expected[off], rtol=1e-9, atol=1e-10)


@with_noise
def test_noise_and_survival_share_the_mass_and_the_slope_is_the_derivative(name):
    kernel, t = KERNELS[name], torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    torch.testing.assert_close(kernel.noise(t).sum(-1), 1 - kernel.schedule.a(t))
    slope = (kernel.noise(t + 1e-6) - kernel.noise(t - 1e-6)) / 2e-6
    torch.testing.assert_close(kernel.noise_rate(t), slope, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(kernel.noise_rate(t).sum(-1), -kernel.schedule.da(t))
    assert kernel.noise(t[:2].reshape(2, 1)).shape == (2, 1, kernel.vocab_size)


@pytest.mark.parametrize("name", ["absorbing", "uniform", "learned", "hybrid, masks only", "frequency", "span"])
def test_laws_of_noise_that_do_not_move_give_the_plain_flow_matching_rate(name):
    kernel = KERNELS[name]
    z, t = torch.tensor([[0, kernel.mask, 2]]), scalar(0.4)
    probs = torch.rand(1, 3, kernel.vocab_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = kernel.schedule.hazard(t) * (probs - torch.nn.functional.one_hot(z, kernel.vocab_size))
    torch.testing.assert_close(kernel.flow_rate(t, z, probs), plain)
    torch.testing.assert_close(AbstractKernel.flow_rate(kernel, t, z, probs), plain)
