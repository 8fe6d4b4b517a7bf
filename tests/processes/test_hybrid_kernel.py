"""The hybrid kernel's published formulas, its limits and the range of its parameters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.processes.hybrid_kernel import HybridKernel, HybridSurvival
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival

V = 4
shares, gammas = st.floats(0.0, 0.95), st.floats(0.1, 2.0)


@settings(max_examples=100, deadline=None)
@given(share=shares, gamma=gammas, t=st.floats(0.01, 0.99))
def test_the_marginal_is_the_published_mixture_of_data_mask_and_uniform(share, gamma, t):
    """((1−t) δ_x + t δ_m + c u)/(1+c) with c = B t^{γ/2} (1−t)^{γ/2}, B = 2^γ p/(1−p)."""
    kernel = HybridKernel(V, share, gamma)
    c = 2**gamma * share / (1 - share) * t ** (gamma / 2) * (1 - t) ** (gamma / 2)
    found = kernel.marginal(torch.tensor([[1]]), torch.tensor(t, dtype=torch.float64))[0, 0]
    expected = torch.tensor([c / 3, 1 - t + c / 3, c / 3, t], dtype=torch.float64) / (1 + c)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_share_of_uniform_noise_is_the_asked_one_at_one_half():
    for share in (0.1, 0.5, 0.9):
        noise = HybridKernel(V, share, 1.3).noise(torch.tensor(0.5, dtype=torch.float64))
        torch.testing.assert_close(noise[:-1].sum(), torch.tensor(share, dtype=torch.float64))


@settings(max_examples=100, deadline=None)
@given(share=shares, gamma=gammas, t=st.floats(0.01, 0.99))
def test_fresh_noise_comes_at_the_rate_of_the_closed_form(share, gamma, t):
    """g = [m/(1−t) + u c (γ/(2t) + (1−γ/2)/(1−t))]/(1+c), so that γ ≤ 2 keeps it non-negative for all t."""
    kernel, time = HybridKernel(V, share, gamma), torch.tensor(t, dtype=torch.float64)
    c = float(kernel.schedule.weight(time))
    uniform = c * (gamma / (2 * t) + (1 - gamma / 2) / (1 - t)) / (1 + c) / 3
    expected = torch.tensor([uniform] * 3 + [1 / (1 - t) / (1 + c)], dtype=torch.float64)
    decay = kernel.schedule.da(time) / kernel.schedule.a(time)
    torch.testing.assert_close(kernel.noise_rate(time) - decay * kernel.noise(time), expected, rtol=1e-9, atol=1e-11)


def test_without_uniform_noise_it_is_the_absorbing_kernel():
    hybrid, plain = HybridKernel(V, 0.0), AbsorbingKernel(V, LinearSurvival())
    z, t, s = torch.tensor([[0, 3, 2]]), torch.tensor(0.6).double(), torch.tensor(0.2).double()
    logits = torch.randn(1, 3, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs = plain.clean_log_probs(logits, z).exp()
    torch.testing.assert_close(hybrid.clean_log_probs(logits, z).exp(), probs)
    torch.testing.assert_close(hybrid.posterior(z, s, t, probs), plain.posterior(z, s, t, probs))
    torch.testing.assert_close(hybrid.reverse_rate(t, z, probs), plain.reverse_rate(t, z, probs))
    assert hybrid.undecided(z).tolist() == plain.undecided(z).tolist()


def test_with_uniform_noise_a_visible_token_stays_open_and_the_end_is_all_masks():
    kernel = HybridKernel(V, 0.3)
    z = torch.tensor([[0, 3]])
    assert kernel.undecided(z).all()
    probs = kernel.clean_log_probs(torch.zeros(1, 2, V), z).exp()
    torch.testing.assert_close(probs[0], torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 0]]) / 3)
    assert (kernel.sample(torch.zeros(3, 50).long(), torch.tensor(1.0), torch.Generator().manual_seed(0)) == 3).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_its_survival_has_exact_ends_a_true_slope_and_an_inverse(gamma):
    schedule = HybridSurvival(0.4, gamma)
    assert schedule.a(torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.0]
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    slope = (schedule.a(t + 1e-6) - schedule.a(t - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.da(t), slope, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(schedule.hazard(t), -schedule.da(t) / (1 - schedule.a(t)), rtol=1e-9, atol=0)
    torch.testing.assert_close(schedule.inverse(schedule.a(t)), t, rtol=1e-9, atol=1e-12)
    assert schedule.da(torch.tensor(1.0)).isfinite()


@pytest.mark.parametrize(
    ("share", "gamma", "message"),
    [(1.0, 1.0, "UniformKernel"), (-0.1, 1.0, "uniform_share"), (0.1, 2.1, "above 2"), (0.1, 0.0, "gamma = 0")],
)
def test_degenerate_parameters_are_refused(share, gamma, message):
    with pytest.raises(ValueError, match=message):
        HybridKernel(V, share, gamma)


def test_a_gamma_above_two_would_have_made_a_rate_negative():
    schedule = HybridSurvival(0.5, 2.0)
    schedule.gamma, schedule.scale = 2.5, 2.0**2.5
    kernel = HybridKernel(V, 0.5, 2.0)
    kernel.schedule = schedule
    assert kernel.forward_rate(torch.tensor(0.97).double())[0, 1] < 0
