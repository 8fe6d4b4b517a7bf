"""The two plain kernels: what they have beside the identities of every corruption."""

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


@kernels
def test_the_transition_is_the_exponential_of_the_integrated_generator(kernel):
    s, t = scalar(0.3), scalar(0.7)
    a = kernel.schedule.a
    # Generators commute: exp ∫Q, where Q is one matrix times a scalar whose integral is ln(a_s/a_t).
    jump = kernel.forward_rate(s) / -(kernel.schedule.da(s) / a(s))
    exponential = torch.linalg.matrix_exp(jump * torch.log(a(s) / a(t)))
    torch.testing.assert_close(kernel.transition(s, t), exponential, rtol=1e-10, atol=1e-12)


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
