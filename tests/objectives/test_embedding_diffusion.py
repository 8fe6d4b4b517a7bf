"""Embedding diffusion: terms at the exact denoiser, the bound, self-conditioning, and embeddings in training."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isocline.datasets.batch import Batch
from isocline.networks.embedding_transformer import EmbeddingTransformer
from isocline.networks.length_predictor import LengthPredictor
from isocline.objectives.embedding_diffusion import EmbeddingDiffusion
from isocline.objectives.embedding_terms import (
    LengthTerm,
    PriorTerm,
    RegressionTerm,
    RoundingTerm,
    TokenTerm,
    lengths_of,
)
from isocline.objectives.gaussian_bound import LogNoiseShareTimes
from isocline.objectives.given_positions import GivenPositions
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_embedding import EnumeratedEmbeddingDenoiser
from isocline.processes.schedule import VPCosineSchedule

SCHEDULE = VPCosineSchedule(max_log_ratio=3.0)
TABLE = torch.tensor([[1.2, 0.1], [-0.7, 1.0], [-0.3, -1.1]]).double()


def truth(seed=0):
    law = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(seed))
    return law, EnumeratedEmbeddingDenoiser(law, TABLE, SCHEDULE)


def standard_error(values):
    return values.std() / len(values) ** 0.5


@pytest.mark.parametrize("times", [None, LogNoiseShareTimes()], ids=["uniform", "log-ratio"])
def test_the_bound_with_the_exact_denoiser_is_the_entropy(times):
    law = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))
    # α(1) = 0: nothing is paid for the prior. At t_min tokens are certain: nothing is lost by decoding them apart.
    schedule = VPCosineSchedule()
    network = EnumeratedEmbeddingDenoiser(law, TABLE, schedule)
    objective = EmbeddingDiffusion(EmbeddingProcess(4, schedule, t_min=0.03), bound_times=times)
    stream = torch.Generator().manual_seed(1)
    tokens = law.sample(8000, stream)
    found = objective.negative_log_likelihood(network, tokens, stream, strata=8)
    assert found.kind == "bound"
    excess = found.nats - law.nats(tokens)
    assert 4 * standard_error(excess) < 0.1 < 0.05 * law.entropy
    assert excess.mean().abs() < 4 * standard_error(excess)


def test_a_schedule_that_leaves_data_pays_for_the_prior():
    law, network = truth()
    objective = EmbeddingDiffusion(EmbeddingProcess(4, VPCosineSchedule(max_log_ratio=1.0), t_min=0.0))
    network.schedule = objective.process.gaussian.schedule
    tokens = law.sample(3000, torch.Generator().manual_seed(0))
    found = objective.negative_log_likelihood(network, tokens, torch.Generator().manual_seed(1), strata=8).nats
    excess = found - law.nats(tokens)
    assert excess.mean() > 4 * standard_error(excess)


def test_a_worse_denoiser_has_a_larger_bound():
    law, network = truth()
    objective = EmbeddingDiffusion(EmbeddingProcess(4, SCHEDULE))

    class Blunt(EnumeratedEmbeddingDenoiser):
        def forward(self, t, x, cond=None):
            return 0.5 * super().forward(t, x).clamp_min(-50)

    blunt = Blunt(law, TABLE, SCHEDULE)
    tokens = law.sample(2000, torch.Generator().manual_seed(1))
    exact, worse = (
        objective.negative_log_likelihood(model, tokens, torch.Generator().manual_seed(2), strata=8).nats
        for model in (network, blunt)
    )
    difference = worse - exact
    assert difference.mean() > 4 * standard_error(difference)


def test_terms_of_the_exact_denoiser_are_conditional_entropy_and_least_squared_error():
    """Both by an independent route: draws of the pair (x, x_t) and Bayes' rule, at one time."""
    law, network = truth()
    process = EmbeddingProcess(4, SCHEDULE)
    at = 0.55
    terms = {"tokens": TokenTerm(), "square": RegressionTerm(0.5)}
    objective = EmbeddingDiffusion(process, terms, times=lambda n, *_: torch.full((n,), at, dtype=torch.float64))
    stream = torch.Generator().manual_seed(3)
    losses = [objective(network, Batch(law.sample(4000, stream)), stream) for _ in range(8)]
    for loss in losses:
        torch.testing.assert_close(loss.total, loss.terms["tokens"] + 0.5 * loss.terms["square"])
    tokens = law.sample(32000, stream)
    clean = network.embed(tokens)
    x = process.gaussian.mix(clean, torch.randn(clean.shape, generator=stream, dtype=torch.float64), SCHEDULE(at))
    posterior = network(torch.tensor(at), x).exp()[..., :-1]
    entropy = -torch.special.xlogy(posterior, posterior).sum(-1).mean(-1)
    spread = (posterior @ TABLE.square().sum(-1) - (posterior @ TABLE).square().sum(-1)).mean(-1)
    for name, independent in (("tokens", entropy), ("square", spread)):
        values = torch.stack([loss.terms[name] for loss in losses])
        error = (standard_error(values) ** 2 + standard_error(independent) ** 2).sqrt()
        assert (values.mean() - independent.mean()).abs() < 4 * error
        assert error < 0.05 * independent.mean()


def test_prior_and_rounding_terms_are_what_they_say():
    law, network = truth()
    process = EmbeddingProcess(4, SCHEDULE)
    tokens = law.sample(500, torch.Generator().manual_seed(0))
    objective = EmbeddingDiffusion(process, {"prior": PriorTerm(), "far": RoundingTerm(width=0.05)})
    terms = objective(network, Batch(tokens), torch.Generator().manual_seed(0)).terms
    alpha = math.exp(-3.0) / math.sqrt(1 + math.exp(-6.0))
    torch.testing.assert_close(terms["prior"], alpha**2 * F.embedding(tokens, TABLE).square().sum(-1).mean())
    assert terms["far"] < 1e-6
    equal = EnumeratedEmbeddingDenoiser(law, torch.ones(3, 2), SCHEDULE)
    terms = objective(equal, Batch(tokens), torch.Generator().manual_seed(0)).terms
    assert terms["far"].item() == pytest.approx(math.log(3))


class Recorder(nn.Module):
    """A linear network that keeps what it was told."""

    takes_previous = True
    vocab_size = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(TABLE.clone())
        self.head = nn.Linear(2, 4, dtype=torch.float64)
        self.told, self.states = [], []

    def table(self):
        return self.weight

    def embed(self, tokens):
        return F.embedding(tokens, self.weight)

    def forward(self, t, x, cond=None, previous=None):
        self.told.append(previous)
        self.states.append(x)
        return self.head(x if previous is None else x + previous)


def test_half_of_the_steps_are_told_a_guess_through_which_no_gradient_flows():
    torch.manual_seed(0)
    objective = EmbeddingDiffusion(EmbeddingProcess(4, SCHEDULE))
    tokens, guessed = torch.zeros(2, 3, dtype=torch.int64), 0
    for seed in range(200):
        network = Recorder()
        objective(network, Batch(tokens), torch.Generator().manual_seed(seed)).total.backward()
        if len(network.told) == 2:
            guessed += 1
            assert network.told[0] is None
            assert not network.told[1].requires_grad
        else:
            assert network.told == [None]
    assert 70 < guessed < 130


def test_the_gradient_with_a_guess_is_that_of_the_second_pass_alone():
    torch.manual_seed(0)
    network = Recorder()
    objective = EmbeddingDiffusion(EmbeddingProcess(4, SCHEDULE), self_conditioning=1.0)
    tokens = torch.tensor([[0, 2, 1]])
    objective(network, Batch(tokens), torch.Generator().manual_seed(0)).total.backward()
    guess = network.told[1]
    fixed = EmbeddingDiffusion(EmbeddingProcess(4, SCHEDULE), self_conditioning=0.0)
    again = Recorder()
    again.load_state_dict(network.state_dict())
    again.takes_previous = False
    plain = again.forward
    again.forward = lambda t, x, cond=None: plain(t, x, cond, guess)
    fixed(again, Batch(tokens), torch.Generator().manual_seed(0)).total.backward()
    for mine, other in zip(network.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_given_positions_show_their_embeddings_in_every_guess_and_are_left_out_of_the_loss():
    torch.manual_seed(0)
    half = torch.tensor([[True, False, False], [True, True, False]])
    objective = EmbeddingDiffusion(
        EmbeddingProcess(4, SCHEDULE), self_conditioning=1.0, given=lambda batch, length, generator: half
    )
    network, tokens = Recorder(), torch.tensor([[0, 2, 1], [1, 2, 0]])
    loss = objective(network, Batch(tokens), torch.Generator().manual_seed(0))
    first, second = network.told
    for told in (first, second):
        assert torch.equal(told[half], TABLE[tokens[half]])
        assert not told.requires_grad
    assert first[~half].abs().max() == 0 < second[~half].abs().max()
    # The loss is the mean over the three open positions.
    guess = objective.process.clean_log_probs(network.head(network.states[-1] + second))
    by_hand = -guess.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)[~half].mean()
    torch.testing.assert_close(loss.total, by_hand)
    network.takes_previous = False
    with pytest.raises(ValueError, match="self_conditioning = true"):
        objective(network, Batch(tokens), torch.Generator())


def test_given_positions_are_prefixes_and_subsets_of_every_length_in_their_shares():
    given = GivenPositions(share=0.5, prefixes=0.5)(20000, 5, torch.Generator().manual_seed(0))
    count = given.sum(-1)
    counts = torch.bincount(count, minlength=6) / 20000
    expected = torch.tensor([0.5, 0.125, 0.125, 0.125, 0.125, 0.0])
    assert (counts - expected).abs().max() < 0.015
    prefix = given == (torch.arange(5) < count.unsqueeze(-1))
    # With one position given, a subset is a prefix one time in five.
    assert prefix[count == 1].all(-1).float().mean().item() == pytest.approx(0.5 + 0.5 / 5, abs=0.04)
    assert not GivenPositions(share=0.0)(10, 5, torch.Generator()).any()
    assert not GivenPositions(share=1.0)(10, 1, torch.Generator()).any()  # a text of one token is all question
    with pytest.raises(ValueError, match="share = 2"):
        GivenPositions(2)


def test_the_bound_asks_a_self_conditioned_network_twice_at_each_point():
    network = Recorder()
    objective = EmbeddingDiffusion(EmbeddingProcess(4, SCHEDULE))
    objective.negative_log_likelihood(network, torch.zeros(2, 3, dtype=torch.int64), torch.Generator(), strata=3)
    assert [told is None for told in network.told] == [True, False] * 4


def train(objective, norm, steps=150):
    torch.manual_seed(0)
    network = EmbeddingTransformer(9, 6, 32, 1, 2, dimension=6, norm=norm, schedule=SCHEDULE)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    stream = torch.Generator().manual_seed(0)
    for _ in range(steps):
        # Runs: each text counts up from its first token, so that the context says nearly all.
        first = torch.randint(0, 8, (64, 1), generator=stream)
        loss = objective(network, Batch((first + torch.arange(6)) % 8), stream)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return network.eval(), loss


def least_distance(network):
    table = network.table().detach()
    return float((torch.cdist(table, table) + 1e3 * torch.eye(len(table))).min())


def test_normalised_embeddings_stay_apart_and_the_bound_nears_the_entropy():
    objective = EmbeddingDiffusion(EmbeddingProcess(9, SCHEDULE))
    network, _ = train(objective, norm=2.0)
    assert least_distance(network) > 0.8
    tokens = (torch.arange(8).repeat(40).unsqueeze(1) + torch.arange(6)) % 8
    stream = torch.Generator().manual_seed(0)
    nats = objective.negative_log_likelihood(network, tokens, stream, strata=16).nats
    # ln 8 = 2.08 nats a text; independent tokens would take 6 ln 8 = 12.5.
    assert math.log(8) - 4 * standard_error(nats) < nats.mean() < 6.5


def test_the_squared_error_alone_draws_free_embeddings_together_and_the_rounding_term_keeps_them_apart():
    process = EmbeddingProcess(9, SCHEDULE)
    alone, _ = train(EmbeddingDiffusion(process, {"square": RegressionTerm()}), norm=None, steps=60)
    full = {"square": RegressionTerm(), "prior": PriorTerm(), "rounding": RoundingTerm(width=0.3)}
    kept, _ = train(EmbeddingDiffusion(process, full), norm=None, steps=60)
    assert least_distance(kept) > 3 * least_distance(alone)


def test_lengths_are_learnt_by_class_through_their_own_term():
    """Class c has texts of 2 + c tokens or, one time in four, of 5; 8 − 1 is the padding."""
    pad = 7
    process = EmbeddingProcess(9, SCHEDULE)
    objective = EmbeddingDiffusion(process, {"tokens": TokenTerm(), "length": LengthTerm(pad, weight=0.5)})
    torch.manual_seed(0)
    network = EmbeddingTransformer(
        9, 6, 16, 1, 2, dimension=4, classes=2, schedule=SCHEDULE, lengths=LengthPredictor(6, 2)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    stream = torch.Generator().manual_seed(0)
    for _ in range(100):
        cond = torch.randint(0, 2, (128,), generator=stream)
        lengths = torch.where(torch.rand(128, generator=stream) < 0.25, 5, 2 + cond)
        texts = torch.randint(0, 7, (128, 6), generator=stream)
        texts = texts.masked_fill(torch.arange(6) >= lengths.unsqueeze(1), pad)
        loss = objective(network, Batch(texts, cond), stream)
        torch.testing.assert_close(loss.total, loss.terms["tokens"] + 0.5 * loss.terms["length"])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    law = network.lengths(2, torch.tensor([0, 1])).exp().detach()
    expected = torch.zeros(2, 6)
    expected[0, 1], expected[1, 2], expected[:, 4] = 0.75, 0.75, 0.25
    assert (law - expected).abs().max() < 0.08


def test_trailing_padding_alone_shortens_a_text():
    tokens = torch.tensor([[1, 7, 2, 7, 7], [7, 7, 7, 7, 7], [1, 2, 3, 4, 5]])
    assert lengths_of(tokens, 7).tolist() == [3, 1, 5]


def test_settings_out_of_range_are_refused():
    process = EmbeddingProcess(4, SCHEDULE)
    with pytest.raises(ValueError, match="self_conditioning = 2"):
        EmbeddingDiffusion(process, self_conditioning=2)
    with pytest.raises(ValueError, match="terms is empty"):
        EmbeddingDiffusion(process, {})
    _, network = truth()
    with pytest.raises(ValueError, match="LengthPredictor"):
        EmbeddingDiffusion(process, {"length": LengthTerm(0)})(
            network, Batch(torch.zeros(1, 3, dtype=torch.int64)), torch.Generator()
        )
