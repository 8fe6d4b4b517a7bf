"""The leave-one-out law: Bayes' rule without the token's own evidence."""

import pytest
import torch
from tests.objectives.enumerated_bound import small_law

from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.leave_one_out import evidence, leave_one_out_log_probs
from isocline.processes.token_schedule import LinearSurvival

KERNELS = [AbsorbingKernel(4, LinearSurvival()), UniformKernel(4, LinearSurvival()), HybridKernel(4, 0.3)]
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=["absorbing", "uniform", "hybrid"])


@kernels
def test_it_is_the_likelihood_ratio_normalised(kernel):
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(3, (40, 5), generator=stream)
    t = torch.rand(40, generator=stream, dtype=torch.float64)
    z = kernel.sample(x, t, stream)
    logits = torch.randn(40, 5, 4, generator=stream, dtype=torch.float64)
    weights = kernel.likelihood_ratio(z, t, kernel.clean_log_probs(logits, z).exp())
    found = leave_one_out_log_probs(kernel, logits, z, t).exp()
    torch.testing.assert_close(found, weights / weights.sum(-1, keepdim=True))


@pytest.mark.parametrize("kernel", KERNELS[1:], ids=["uniform", "hybrid"])
def test_of_the_exact_denoiser_it_does_not_depend_on_the_token_itself(kernel):
    truth = small_law(length=3)
    network, t = EnumeratedDenoiser(truth, kernel), torch.full((3,), 0.3, dtype=torch.float64)
    z = torch.tensor([[0, 1, 2], [1, 1, 2], [2, 1, 2]])
    laws = leave_one_out_log_probs(kernel, network(t, z), z, t)
    torch.testing.assert_close(laws[1:, 0], laws[:1, 0].expand(2, -1))
    assert (laws[0, 1] - laws[1, 1])[:3].abs().max() > 1e-3


def test_evidence_is_the_log_odds_of_a_token_being_what_it_shows():
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    found = evidence(KERNELS[1], torch.tensor([[0, 2], [1, 1]]), t)
    expected = torch.tensor([[0.75 / 0.25 * 3 + 1] * 2, [0.5 / 0.5 * 3 + 1] * 2], dtype=torch.float64).log()
    torch.testing.assert_close(found, expected)
    assert (evidence(KERNELS[0], torch.tensor([[0, 2]]), torch.tensor(0.5)) > 500).all()


def test_float32_keeps_the_law_of_the_others_as_time_goes_to_zero():
    kernel = UniformKernel(1024, LinearSurvival())
    raw = torch.randn(2, 3, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z, t = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.full((2,), 1e-8, dtype=torch.float64)
    own = evidence(kernel, z, t).unsqueeze(-1)
    logits = raw.scatter_add(-1, z.unsqueeze(-1), own).float()
    expected = raw[..., :-1].log_softmax(-1)
    torch.testing.assert_close(
        leave_one_out_log_probs(kernel, logits, z, t)[..., :-1].double(), expected, rtol=0, atol=1e-5
    )
