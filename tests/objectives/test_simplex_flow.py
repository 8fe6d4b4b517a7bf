"""Flow matching of relaxed tokens: the loss is a conditional entropy, the Gaussian bound is tight."""

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.networks.soft_token_transformer import SoftTokenTransformer
from isocline.objectives.given_positions import GivenPositions
from isocline.objectives.simplex_flow import OneHotGaussianFlow, SimplexFlow
from isocline.processes.dirichlet_path import DirichletPath
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_path import EnumeratedPathDenoiser
from isocline.processes.fisher_path import FisherPath
from isocline.processes.onehot_path import LogitPath, OneHotGaussianPath
from isocline.processes.simplex_path import LinearSimplexPath

PATHS = [LinearSimplexPath, DirichletPath, FisherPath, OneHotGaussianPath, LogitPath]


@pytest.mark.parametrize("kind", [OneHotGaussianPath, LogitPath], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("symbols", "length"), [(4, 1), (3, 2)])
def test_with_the_exact_denoiser_the_bound_is_the_entropy(kind, symbols, length):
    path = kind(symbols + 1)
    law = EnumeratedLaw.random(symbols, length, 1.5, torch.Generator().manual_seed(1))
    states, repeats = len(law.probs), 800
    found = OneHotGaussianFlow(path).negative_log_likelihood(
        EnumeratedPathDenoiser(law, path), law.sequences.repeat(repeats, 1), torch.Generator().manual_seed(0), strata=8
    )
    assert found.kind == "bound"
    means = (found.nats.view(repeats, states) * law.probs).sum(1)
    error = means.std() / repeats**0.5
    assert error < 0.04
    assert abs(means.mean() - law.entropy) < 4 * error


def test_an_ignorant_network_has_a_larger_bound():
    law = EnumeratedLaw.random(3, 2, 1.5, torch.Generator().manual_seed(1))
    path = OneHotGaussianPath(4)
    ignorant = lambda t, view, cond=None: torch.zeros_like(view)  # noqa: E731
    tokens = law.sample(3000, torch.Generator().manual_seed(2))
    nats = OneHotGaussianFlow(path).negative_log_likelihood(ignorant, tokens, torch.Generator().manual_seed(0), 8).nats
    # Equal odds at every position: the bound is ln 9 for every sequence, by the same identity.
    assert abs(nats.mean() - 2 * torch.tensor(3.0).log()) < 4 * nats.std() / 3000**0.5
    assert nats.mean() > law.entropy + 0.2


@pytest.mark.parametrize("kind", PATHS, ids=lambda kind: kind.__name__)
def test_the_exact_denoiser_has_less_loss_than_one_that_knows_marginals_alone(kind):
    path = kind(4)
    law = EnumeratedLaw.random(3, 2, 1.5, torch.Generator().manual_seed(1))
    tokens = law.sample(4000, torch.Generator().manual_seed(2))
    frequencies = torch.nn.functional.one_hot(tokens, 3).double().mean(0)
    marginals = lambda t, view, cond=None: frequencies.log().expand_as(view)  # noqa: E731
    loss = SimplexFlow(path)
    exact = loss(EnumeratedPathDenoiser(law, path), Batch(tokens), torch.Generator().manual_seed(0)).total
    assert exact < loss(marginals, Batch(tokens), torch.Generator().manual_seed(0)).total - 0.01


def test_only_the_gaussian_path_has_a_likelihood():
    assert not hasattr(SimplexFlow(DirichletPath(4)), "negative_log_likelihood")
    with pytest.raises(TypeError, match="DirichletPath"):
        OneHotGaussianFlow(DirichletPath(4))


@pytest.mark.parametrize("kind", PATHS, ids=lambda kind: kind.__name__)
def test_training_learns_the_dependence_of_neighbours(kind):
    torch.manual_seed(0)
    path = kind(33)
    network = SoftTokenTransformer(33, 4, 32, 1, 4)
    objective = SimplexFlow(path)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.007)
    stream = torch.Generator().manual_seed(0)

    def loss(network, rows):
        tokens = torch.randint(0, 32, (rows, 2), generator=stream).repeat_interleave(2, 1)
        return objective(network, Batch(tokens), stream).total

    for _ in range(120):
        optimizer.zero_grad()
        loss(network, 32).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    stream.manual_seed(1)
    with torch.no_grad():
        trained = loss(network, 1000)
    stream.manual_seed(1)
    assert trained < 0.95 * loss(lambda t, view, cond=None: torch.zeros_like(view), 1000)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_self_conditioning_feeds_the_first_prediction_without_gradient(share):
    network = SoftTokenTransformer(9, 3, 16, 1, 2, self_conditioning=True)
    given = []
    network.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get("previous")), with_kwargs=True
    )
    tokens = torch.randint(0, 8, (5, 3), generator=torch.Generator().manual_seed(0))
    objective = SimplexFlow(OneHotGaussianPath(9), self_conditioning=share)
    objective(network, Batch(tokens), torch.Generator().manual_seed(0)).total.backward()
    assert len(given) == 1 + share
    assert given[0] is None
    if share:
        assert not given[1].requires_grad
        torch.testing.assert_close(given[1].sum(-1), torch.ones(5, 3))
        assert network.previous.weight.grad is not None


def test_known_tokens_are_shown_and_cost_nothing():
    path = DirichletPath(4)
    tokens = torch.tensor([[0, 1, 2, 2]]).expand(400, 4)
    known = SimplexFlow(path, given=GivenPositions(0.5, 0.0))._known(tokens, torch.Generator().manual_seed(0))
    assert bool(((known == tokens) | (known == -1)).all())
    assert bool((known == -1).any(-1).all())
    # A uniform number of 1 to 3 of the four, in half of the sequences.
    assert 0.22 < (known >= 0).double().mean() < 0.28
    seen = []

    def network(t, view, cond=None):
        seen.append(view)
        return torch.zeros_like(view)

    loss = SimplexFlow(path, given=GivenPositions(1.0, 0.0))(network, Batch(tokens), torch.Generator().manual_seed(0))
    certain = torch.nn.functional.one_hot(tokens, 3)
    sure = (seen[0] == certain).all(-1)
    assert 0.45 < sure.double().mean() < 0.55
    # What is left is the conditional entropy of one token under equal odds, known ones or none.
    plain = SimplexFlow(path)(network, Batch(tokens), torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.total, plain.total, rtol=0.15, atol=0)


def test_a_share_outside_of_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"self_conditioning = 1\.5"):
        SimplexFlow(DirichletPath(4), self_conditioning=1.5)
