"""Corruption kernels against matrix exponentials and Bayes' rule, V ≤ 8, float64."""

import itertools

import pytest
import torch

from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival, PolynomialSurvival

V = 5
KERNELS = [
    AbsorbingKernel(V, LinearSurvival()),
    UniformKernel(V, CosineSurvival()),
    UniformKernel(8, PolynomialSurvival(2)),
]
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=["absorbing", "uniform", "uniform8"])


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def one_hot_rows(kernel):
    """Every real symbol in its own row, ``(V-1, 1)``, and one-hot laws of all V symbols."""
    return torch.arange(kernel.mask).unsqueeze(1), torch.eye(kernel.vocab_size, dtype=torch.float64)


@kernels
def test_the_transition_is_the_exponential_of_the_integrated_generator(kernel):
    s, t = scalar(0.3), scalar(0.7)
    a = kernel.schedule.a
    # Generators commute: exp ∫Q, where Q is one matrix times a scalar whose integral is ln(a_s/a_t).
    jump = kernel.forward_rate(s) / -(kernel.schedule.da(s) / a(s))
    exponential = torch.linalg.matrix_exp(jump * torch.log(a(s) / a(t)))
    torch.testing.assert_close(kernel.transition(s, t), exponential, rtol=1e-10, atol=1e-12)


@kernels
def test_ordered_exponentials_of_the_generator_converge_to_the_transition(kernel):
    grid = torch.linspace(0.2, 0.6, 401, dtype=torch.float64)
    product = torch.eye(kernel.vocab_size, dtype=torch.float64)
    for left, right in itertools.pairwise(grid):
        product = product @ torch.linalg.matrix_exp(kernel.forward_rate((left + right) / 2) * (right - left))
    torch.testing.assert_close(product, kernel.transition(grid[0], grid[-1]), rtol=1e-5, atol=1e-6)


@kernels
def test_generators_conserve_probability(kernel):
    rate = kernel.forward_rate(scalar(0.4))
    torch.testing.assert_close(rate.sum(-1), torch.zeros(kernel.vocab_size, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (rate - rate.diag().diag() >= 0).all()


@kernels
def test_the_marginal_is_a_row_of_the_transition_from_data(kernel):
    x, _ = one_hot_rows(kernel)
    marginal = kernel.marginal(x, scalar(0.6))[:, 0]
    torch.testing.assert_close(marginal, kernel.transition(scalar(0.0), scalar(0.6))[: kernel.mask])


@kernels
def test_samples_follow_the_marginal(kernel):
    draws = 40_000
    x0 = torch.full((draws, 1), 1)
    z = kernel.sample(x0, scalar(0.5), torch.Generator().manual_seed(1))
    share = torch.bincount(z.flatten(), minlength=kernel.vocab_size).double() / draws
    expected = kernel.marginal(x0[:1], scalar(0.5))[0, 0]
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / draws).sqrt()).all()


@kernels
def test_a_batch_of_times_corrupts_each_row_by_its_own(kernel):
    x0 = torch.ones(2, 2000, dtype=torch.int64)
    z = kernel.sample(x0, torch.tensor([0.0, 1.0], dtype=torch.float64), torch.Generator().manual_seed(0))
    assert (z[0] == 1).all()
    assert (z[1] == 1).double().mean() < 0.4


@kernels
def test_the_posterior_is_bayes_rule(kernel):
    s, t = scalar(0.35), scalar(0.8)
    forward, step = kernel.transition(scalar(0.0), s), kernel.transition(s, t)
    _, eye = one_hot_rows(kernel)
    for x in range(kernel.mask):
        for z in range(kernel.vocab_size):
            joint = forward[x] * step[:, z]
            if joint.sum() == 0:
                continue
            found = kernel.posterior(torch.tensor([[z]]), s, t, eye[x].view(1, 1, -1))[0, 0]
            torch.testing.assert_close(found, joint / joint.sum(), rtol=1e-10, atol=1e-12)


@kernels
def test_the_posterior_of_a_mixture_is_the_mixture_of_posteriors(kernel):
    s, t, z = scalar(0.2), scalar(0.9), torch.tensor([[kernel.mask if isinstance(kernel, AbsorbingKernel) else 1]])
    probs = torch.rand(1, 1, kernel.vocab_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs[..., kernel.mask] = 0
    probs /= probs.sum(-1, keepdim=True)
    _, eye = one_hot_rows(kernel)
    parts = [probs[0, 0, k] * kernel.posterior(z, s, t, eye[k].view(1, 1, -1)) for k in range(kernel.mask)]
    mixed = kernel.posterior(z, s, t, probs)
    torch.testing.assert_close(mixed, sum(parts))
    torch.testing.assert_close(mixed.sum(-1), torch.ones(1, 1, dtype=torch.float64))


@kernels
def test_the_posterior_at_time_zero_is_the_predicted_law(kernel):
    z = torch.tensor([[kernel.mask if isinstance(kernel, AbsorbingKernel) else 0]])
    probs = torch.full((1, 1, kernel.vocab_size), 1.0 / kernel.mask, dtype=torch.float64)
    probs[..., kernel.mask] = 0
    torch.testing.assert_close(kernel.posterior(z, scalar(0.0), scalar(0.6), probs), probs)


def bayes(kernel, data, t):
    """p_t (V,) and p(x|z) (V, V) for one position with the data law ``data``."""
    joint = data.unsqueeze(-1) * kernel.transition(scalar(0.0), t)
    p = joint.sum(0)
    return p, torch.where(p > 0, joint / p, 0.0).T


def toy_data(kernel):
    data = torch.arange(1.0, kernel.vocab_size + 1, dtype=torch.float64)
    data[kernel.mask] = 0
    return data / data.sum()


@kernels
@pytest.mark.parametrize("name", ["reverse_rate", "flow_rate"])
def test_both_rates_carry_the_marginal_back_in_time(kernel, name):
    """Kolmogorov: −dp_t/dt = p_t R for the rates of the chain that runs from 1 to 0."""
    t, data = scalar(0.55), toy_data(kernel)
    p, posterior = bayes(kernel, data, t)
    z = torch.arange(kernel.vocab_size).unsqueeze(1)
    rates = getattr(kernel, name)(t, z, posterior.unsqueeze(1))[:, 0]
    reached = p > 0
    slope = (bayes(kernel, data, t + 1e-6)[0] - bayes(kernel, data, t - 1e-6)[0]) / 2e-6
    torch.testing.assert_close(p[reached] @ rates[reached], -slope, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(rates.sum(-1)[reached], torch.zeros(int(reached.sum()), dtype=torch.float64))


@kernels
def test_the_reverse_rate_is_the_time_reversal_of_the_generator(kernel):
    t, data = scalar(0.55), toy_data(kernel)
    p, posterior = bayes(kernel, data, t)
    z = torch.arange(kernel.vocab_size).unsqueeze(1)
    found = kernel.reverse_rate(t, z, posterior.unsqueeze(1))[:, 0]
    expected = kernel.forward_rate(t).T * p.unsqueeze(0) / p.unsqueeze(1)
    off = ~torch.eye(kernel.vocab_size, dtype=torch.bool) & (p > 0).unsqueeze(1)
    torch.testing.assert_close(found[off], expected[off], rtol=1e-9, atol=1e-12)


def test_absorbing_reversal_and_flow_matching_rates_are_one():
    kernel = KERNELS[0]
    logits = torch.randn(4, 6, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.randint(V, (4, 6), generator=torch.Generator().manual_seed(1))
    probs = kernel.clean_log_probs(logits, z).exp()
    t = torch.linspace(0.2, 0.8, 4, dtype=torch.float64)
    torch.testing.assert_close(kernel.reverse_rate(t, z, probs), kernel.flow_rate(t, z, probs))


def test_absorbing_copies_visible_tokens_and_never_predicts_the_mask():
    kernel = KERNELS[0]
    z = torch.tensor([[2, kernel.mask]])
    probs = kernel.clean_log_probs(torch.zeros(1, 2, V), z).exp()
    assert probs[0, 0].tolist() == [0, 0, 1, 0, 0]
    assert probs[0, 1].tolist() == [0.25, 0.25, 0.25, 0.25, 0]


def test_uniform_predicts_real_symbols_only():
    kernel = KERNELS[1]
    probs = kernel.clean_log_probs(torch.zeros(1, 1, V), torch.tensor([[2]])).exp()
    assert probs[0, 0].tolist() == [0.25, 0.25, 0.25, 0.25, 0]


def test_gradients_through_the_substitution_are_finite():
    logits = torch.randn(2, 3, V, requires_grad=True)
    z = torch.tensor([[0, V - 1, 1], [V - 1, V - 1, 2]])
    KERNELS[0].clean_log_probs(logits, z).gather(-1, torch.ones(2, 3, 1).long())[z == V - 1].sum().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[z != V - 1].abs().max() == 0


def test_a_vocabulary_without_real_symbols_is_refused():
    with pytest.raises(ValueError, match="vocab_size = 1"):
        AbsorbingKernel(1, LinearSurvival())
