"""A schedule per token: the bound of the exact denoiser is the entropy, and its gradient is that of enumeration."""

import itertools

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.tokenwise_masked import TokenwiseMaskedDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.learned_schedule import PolynomialTokenSurvival
from isocline.processes.token_schedule import LinearSurvival
from isocline.processes.tokenwise_kernel import TokenwiseAbsorbingKernel


class Table(nn.Module):
    """Logits by the whole noisy sequence of two tokens out of four."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(16, 2, 4, generator=torch.Generator().manual_seed(5)).double())

    def forward(self, t, z, cond=None):
        return self.logits[z[:, 0] * 4 + z[:, 1]]


def setup(exponents=(1.2, 1.6, 2.5, 1.0)):
    truth = EnumeratedLaw.random(3, 2, 1.5, torch.Generator().manual_seed(0))
    schedule = PolynomialTokenSurvival(4)
    schedule.log_exponents.data = torch.tensor(exponents).log()
    kernel = TokenwiseAbsorbingKernel(4, schedule)
    return truth, kernel, TokenwiseMaskedDiffusion(kernel)


def enumerated_bound(truth, objective, network):
    """Mean over the law of ∫ Σ_z q_t(z|x) f(x, z, t) dt: all masks, Gauss-Legendre in t = u³; differentiable."""
    matrix = torch.diag(torch.arange(1, 60).double() / (4 * torch.arange(1, 60).double() ** 2 - 1).sqrt(), 1)
    roots, vectors = torch.linalg.eigh(matrix + matrix.T)
    u, weights = (roots + 1) / 2, vectors[0] ** 2
    exponents, total = objective.schedule.log_exponents.double().exp(), 0.0
    for masks in itertools.product([False, True], repeat=2):
        hidden = torch.tensor(masks).expand_as(truth.sequences)
        z = truth.sequences.masked_fill(hidden, 3)
        for node, weight in zip(u, weights, strict=True):
            t = (node**3).expand(len(z))
            powers = (t.unsqueeze(-1) ** exponents)[:, : truth.symbols].gather(1, truth.sequences)
            law = torch.where(hidden, powers, 1 - powers).prod(-1)
            log_probs = network(t, z)[..., : truth.symbols].log_softmax(-1)
            surprise = -exponents[truth.sequences] * log_probs.gather(-1, truth.sequences.unsqueeze(-1)).squeeze(-1)
            excess = (exponents[: truth.symbols] * log_probs.exp()).sum(-1) - exponents[truth.sequences]
            cost = torch.where(hidden, surprise + excess, 0.0).sum(-1) / t
            total = total + 3 * node**2 * weight * (truth.probs * law * cost).sum()
    return total


@pytest.mark.parametrize("exponents", [(1.2, 1.6, 2.5, 1.0), (0.6, 1.0, 3.0, 1.0)])
def test_the_bound_of_the_exact_denoiser_is_the_entropy_for_any_exponents(exponents):
    truth, kernel, objective = setup(exponents)
    with torch.no_grad():
        found = enumerated_bound(truth, objective, EnumeratedDenoiser(truth, kernel))
    torch.testing.assert_close(found, truth.entropy, rtol=1e-8, atol=0)


def test_another_denoiser_lies_above_and_the_value_depends_on_the_exponents():
    truth, _, objective = setup()
    _, _, equal = setup((1.0, 1.0, 1.0, 1.0))
    with torch.no_grad():
        here, there = (enumerated_bound(truth, kind, Table()) for kind in (objective, equal))
    assert min(here, there) > truth.entropy + 0.1
    assert (here - there).abs() > 0.01


def test_equal_exponents_give_the_masked_integrand_point_by_point():
    _, kernel, objective = setup((1.0, 1.0, 1.0, 1.0))
    plain = AbsorbingKernel(4, LinearSurvival())
    x0, z, t = torch.tensor([[0, 1], [2, 2]]), torch.tensor([[3, 1], [3, 3]]), torch.tensor([0.3, 0.8]).double()
    network = Table()
    log_probs = plain.clean_log_probs(network(t, z), z)
    expected = -log_probs.gather(-1, x0.unsqueeze(-1)).sum((-1, -2)) * plain.schedule.hazard(t)
    torch.testing.assert_close(objective.divergence(network, x0, z, t), expected)
    probs = log_probs.exp()
    torch.testing.assert_close(kernel.posterior(z, t / 2, t, probs), plain.posterior(z, t / 2, t, probs))


def test_gradients_of_network_and_exponents_are_those_of_the_enumerated_bound():
    truth, kernel, objective = setup()
    network, stream = Table(), torch.Generator().manual_seed(1)
    wanted = [kernel.schedule.log_exponents, network.logits]
    exact = torch.autograd.grad(enumerated_bound(truth, objective, network), wanted)
    draws = []
    for _ in range(300):
        loss = objective(network, Batch(truth.sample(256, stream)), stream).total * 2
        draws.append([g.flatten().double() for g in torch.autograd.grad(loss, wanted)])
    for found, expected in zip(map(torch.stack, zip(*draws, strict=True)), exact, strict=True):
        error, spread = found.mean(0) - expected.flatten(), found.std(0) / len(found) ** 0.5
        assert (error.abs() <= 4.5 * spread + 1e-12).all()
    slopes = torch.stack([d[0] for d in draws])
    # The interval must tell the gradient from zero, and from the part without the score of the masks.
    assert (exact[0][:3].abs() > 4 * slopes.std(0)[:3] / 300**0.5).any()


def test_the_likelihood_estimate_has_the_enumerated_mean():
    truth, _, objective = setup()
    network, stream = Table(), torch.Generator().manual_seed(2)
    nats = objective.negative_log_likelihood(network, truth.sample(6000, stream), stream, strata=8)
    assert nats.kind == "bound"
    with torch.no_grad():
        expected = enumerated_bound(truth, objective, network)
    assert (nats.nats.mean() - expected).abs() < 4 * nats.nats.std() / 6000**0.5


def test_a_step_on_the_exponents_tightens_the_bound_of_a_fixed_network():
    truth, kernel, objective = setup((1.0, 1.0, 1.0, 1.0))
    network, stream = Table().requires_grad_(False), torch.Generator().manual_seed(3)
    before = enumerated_bound(truth, objective, network)
    optimizer = torch.optim.Adam([kernel.schedule.log_exponents], lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        objective(network, Batch(truth.sample(512, stream)), stream).total.backward()
        optimizer.step()
    assert enumerated_bound(truth, objective, network) < before - 0.02


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="AbsorbingKernel"):
        TokenwiseMaskedDiffusion(AbsorbingKernel(4, LinearSurvival()))
    with pytest.raises(ValueError, match="must be vocab_size = 5"):
        TokenwiseAbsorbingKernel(5, PolynomialTokenSurvival(4))
