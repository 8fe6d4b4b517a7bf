"""SEDD's analytic sampler (Tweedie tau-leaping) is the ancestral step of a network that predicts clean tokens."""

import pytest
import torch

from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, GeometricSurvival

KERNELS = [UniformKernel(5, GeometricSurvival()), AbsorbingKernel(5, CosineSurvival()), HybridKernel(5, 0.3)]


@pytest.mark.parametrize("kernel", KERNELS, ids=["uniform", "absorbing", "hybrid"])
def test_tweedie_on_the_scores_gives_the_posterior(kernel):
    generator = torch.Generator().manual_seed(0)
    s, t = torch.tensor([0.3, 0.6]).double()
    z = torch.tensor([[0, 1, 4, 2]]) if not isinstance(kernel, UniformKernel) else torch.tensor([[0, 1, 3, 2]])
    probs = torch.rand(1, 4, 5, generator=generator, dtype=torch.float64)
    probs[..., kernel.mask] = 0.0
    probs = probs / probs.sum(-1, keepdim=True)
    if isinstance(kernel, AbsorbingKernel):
        probs = kernel.clean_log_probs(probs.log(), z).exp()
    whole, part = kernel.transition(torch.zeros_like(t), t), kernel.transition(s, t)
    # s_y = Σ_k p(k|z) q_t(y|k)/q_t(z|k); then p(z_s) ∝ [P(s, t)^-T s]_y P(s, t)(y → z): Lou et al., 2024, theorem 4.2.
    ratios = whole.unsqueeze(0) / whole.T[z[0]].unsqueeze(-1)
    scores = (probs[0].unsqueeze(-1) * torch.where(probs[0].unsqueeze(-1) > 0, ratios, 0.0)).sum(1)
    tweedie = torch.linalg.solve(part.T, scores.T).T * part.T[z[0]]
    torch.testing.assert_close(tweedie, kernel.posterior(z, s, t, probs)[0], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(tweedie.sum(-1), torch.ones(4).double())
