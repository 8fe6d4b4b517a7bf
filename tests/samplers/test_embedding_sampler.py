"""Samplers of embeddings: the exact law, prompts, clamping, rounding, lengths, and the account of evaluations."""

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.embedding_transformer import EmbeddingTransformer
from isocline.networks.length_predictor import LengthPredictor
from isocline.objectives.embedding_diffusion import EmbeddingDiffusion
from isocline.objectives.given_positions import GivenPositions
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_embedding import EnumeratedEmbeddingDenoiser
from isocline.processes.prediction import DataPrediction
from isocline.processes.rounding import SoftmaxRounding
from isocline.processes.schedule import VPCosineSchedule
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.embedding import EmbeddingSampler
from isocline.samplers.embedding_denoiser import ClampedEmbeddings, EmbeddingDenoiser
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.guidance import ClassifierFreeGuidance
from isocline.samplers.guided import GuidedSampler
from isocline.samplers.prompt import Prompt
from isocline.samplers.text_length import EndToken, PredictedLength
from isocline.samplers.token_law import Sharpening
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import Heun

SCHEDULE = VPCosineSchedule(max_log_ratio=4.0)
TABLE = torch.tensor([[1.2, 0.1], [-0.7, 1.0], [-0.3, -1.1]]).double()
PROCESS = EmbeddingProcess(4, SCHEDULE)
DDIM, ANCESTRAL = (DDIMSampler(UniformTimeGrid(), eta=eta) for eta in (0.0, 1.0))
HEUN = ContinuousSampler(Heun(), UniformTimeGrid(), LinearPathVariable())


def truth():
    law = EnumeratedLaw.random(3, 3, 1.5, torch.Generator().manual_seed(0))
    return law, EnumeratedEmbeddingDenoiser(law, TABLE, SCHEDULE)


def chi_squared(law, tokens):
    expected = law.probs * len(tokens)
    found = law.frequencies(tokens) * len(tokens)
    common = expected > 5
    rest = expected[~common].sum()
    statistic = ((found - expected)[common].square() / expected[common]).sum()
    statistic = statistic + (found[~common].sum() - rest).square() / rest.clamp_min(1e-9)
    return float(statistic), int(common.sum())


@pytest.mark.parametrize(("sampler", "nfe"), [(DDIM, 128), (ANCESTRAL, 256), (HEUN, 128)], ids=["ddim", "sde", "heun"])
def test_the_exact_denoiser_gives_the_law(sampler, nfe):
    law, network = truth()
    solution = EmbeddingSampler(sampler).sample(network, PROCESS, (3000, 3), nfe, torch.Generator().manual_seed(0))
    statistic, degrees = chi_squared(law, solution.final)
    # Mean k and standard deviation √(2k) of the statistic, and four of them.
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5
    assert solution.final.dtype == torch.int64
    assert (solution.stats.nfe <= nfe).all()


def test_few_steps_do_not_give_the_law():
    law, network = truth()
    tokens = EmbeddingSampler(DDIM).sample(network, PROCESS, (3000, 3), 2, torch.Generator().manual_seed(0)).final
    statistic, degrees = chi_squared(law, tokens)
    assert statistic > degrees + 4 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("wrap", [None, ClampedEmbeddings], ids=["plain", "clamped"])
@pytest.mark.parametrize("sampler", [DDIM, ANCESTRAL, HEUN], ids=["ddim", "sde", "heun"])
def test_any_subset_of_positions_is_kept(sampler, wrap):
    _, network = truth()
    stream = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 3, (64, 3), generator=stream)
    fixed = torch.rand(64, 3, generator=stream) < 0.5
    made = EmbeddingSampler(sampler, wrap=wrap).sample(
        network, PROCESS, (64, 3), 8, stream, prompt=(tokens, fixed), save_steps=True
    )
    assert torch.equal(made.final[fixed], tokens[fixed])
    assert (made.ys[:, fixed] == tokens[fixed]).all()
    assert made.ts[0] > made.ts[-1]
    assert made.ys.max() < 3


def completion(given):
    """Train on pairs of equal tokens; how often the other one of a pair is found from one that is given."""
    torch.manual_seed(0)
    process = EmbeddingProcess(9, VPCosineSchedule(max_log_ratio=3.0))
    objective = EmbeddingDiffusion(process, given=given)
    network = EmbeddingTransformer(9, 2, 32, 1, 2, dimension=6, schedule=process.gaussian.schedule)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    stream = torch.Generator().manual_seed(0)
    for _ in range(120):
        loss = objective(network, Batch(torch.randint(0, 8, (64, 1), generator=stream).expand(-1, 2)), stream)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    texts, fixed = torch.randint(0, 8, (800, 1), generator=stream).expand(-1, 2), torch.tensor([True, False])
    made = EmbeddingSampler(ANCESTRAL).sample(network, process, (800, 2), 16, stream, prompt=(texts, fixed)).final
    return (made == texts)[:, 1].float().mean()


def test_a_network_goes_on_from_given_positions_better_when_it_has_been_trained_with_them():
    """Without, a prompt acts through its noisy state alone, as replacement does; chance would find 1/8."""
    trained, replaced = completion(GivenPositions(share=0.5)), completion(None)
    assert 0.3 < replaced < trained - 0.1
    assert trained > 0.7


def denoiser(network, given=None, **kwargs):
    given = Prompt.parse(None, (4, 3), 3, "cpu") if given is None else given
    return EmbeddingDenoiser(network, PROCESS, given, Sharpening(), **kwargs)


def test_clamping_is_idempotent_and_ends_on_embeddings():
    _, network = truth()
    clamped = ClampedEmbeddings(denoiser(network))
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = clamped.bound(x)
    assert torch.equal(clamped.bound(once), once)
    assert torch.cdist(once.view(-1, 2), TABLE).amin(-1).max() < 1e-6
    predicted = clamped.predict(torch.tensor(0.5, dtype=torch.float64), x, None, DataPrediction())
    assert torch.equal(clamped.bound(predicted), predicted)


def test_a_greedy_law_predicts_embeddings_of_tokens():
    _, network = truth()
    given = Prompt.parse(None, (4, 3), 3, "cpu")
    greedy = EmbeddingDenoiser(network, PROCESS, given, Sharpening(temperature=0.0))
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predicted = greedy.data(torch.tensor(0.5, dtype=torch.float64), x)
    assert torch.cdist(predicted.view(-1, 2), TABLE).amin(-1).max() < 1e-6


def test_softmax_rounding_draws_its_law():
    _, network = truth()
    sampler = EmbeddingSampler(DDIM, rounding=SoftmaxRounding(2.0))
    asked = denoiser(network)
    state = torch.tensor([0.3, 0.2], dtype=torch.float64).expand(6000, 1, 2)
    drawn = sampler._rounded(state, asked, torch.Generator().manual_seed(0))
    law = SoftmaxRounding(2.0).log_probs(state[:1], TABLE).exp()[0, 0]
    found = torch.bincount(drawn.flatten(), minlength=3) / 6000
    assert (found - law).abs().max() < 4 * 0.5 / 6000**0.5


class Recorder(nn.Module):
    takes_previous = True

    def __init__(self, inner):
        super().__init__()
        self.inner, self.told, self.conds = inner, [], []

    def table(self):
        return self.inner.table()

    def embed(self, tokens):
        return self.inner.embed(tokens)

    def forward(self, t, x, cond=None, previous=None):
        self.told.append(previous)
        self.conds.append(cond)
        return self.inner(t, x)


def test_each_step_is_told_the_expectation_of_the_one_before_and_the_prompt_from_the_first():
    _, exact = truth()
    network = Recorder(exact)
    tokens, fixed = torch.tensor([2, 0, 0]), torch.tensor([True, False, False])
    sampler = EmbeddingSampler(DDIM)
    made = sampler.sample(network, PROCESS, (5, 3), 4, torch.Generator().manual_seed(0), prompt=(tokens, fixed))
    assert len(network.told) == 4
    assert made.stats.nfe.tolist() == [4] * 5
    for told in network.told:
        assert torch.equal(told[:, 0], TABLE[2].expand(5, 2))
    assert network.told[0][:, 1:].abs().max() == 0
    assert network.told[1][:, 1:].abs().max() > 0
    assert not torch.equal(network.told[1], network.told[3])
    sampler.sample(network, PROCESS, (5, 3), 4, torch.Generator().manual_seed(0))
    assert network.told[4].abs().max() == 0


def test_guided_calls_keep_the_guesses_of_both_laws_apart_and_are_counted():
    _, exact = truth()
    network = Recorder(exact)
    guided = GuidedSampler(DDIM, lambda inner: ClassifierFreeGuidance(inner, 2.0))
    cond = torch.zeros(5, dtype=torch.int64)
    made = EmbeddingSampler(guided).sample(network, PROCESS, (5, 3), 6, torch.Generator().manual_seed(0), cond=cond)
    assert made.stats.nfe.tolist() == [6] * 5
    assert [c is None for c in network.conds] == [True, False] * 3
    assert network.told[2] is not network.told[3]


def test_a_predicted_length_is_kept_and_drawn_from_its_law():
    torch.manual_seed(0)
    network = EmbeddingTransformer(6, 5, 16, 1, 2, dimension=4, schedule=SCHEDULE, lengths=LengthPredictor(5)).double()
    with torch.no_grad():
        network.lengths.logits.weight.copy_(torch.tensor([[0.0, 1.0, -9.0, 2.0, -9.0]]))
    pad, process = 4, EmbeddingProcess(6, SCHEDULE)
    sampler = EmbeddingSampler(ANCESTRAL, length=PredictedLength(pad))
    tokens = sampler.sample(network, process, (2000, 5), 3, torch.Generator().manual_seed(0)).final
    lengths = (tokens != pad).sum(-1)
    # Padding is what follows the text, and nothing else.
    assert torch.equal(tokens == pad, torch.arange(5) >= lengths.unsqueeze(1))
    found = torch.bincount(lengths - 1, minlength=5) / 2000
    assert (found - network.lengths(1)[0].exp()).abs().max() < 4 * 0.5 / 2000**0.5
    given = (torch.tensor([0, 0, 0, 0, 3]), torch.tensor([False, False, False, False, True]))
    kept = sampler.sample(network, process, (50, 5), 3, torch.Generator().manual_seed(0), prompt=given).final
    assert (kept[:, 4] == 3).all()


def test_a_text_ends_at_its_first_end_token():
    tokens = torch.tensor([[1, 3, 2, 3], [1, 2, 1, 2], [3, 1, 1, 1]])
    expected = torch.tensor([[1, 3, 0, 0], [1, 2, 1, 2], [3, 0, 0, 0]])
    assert torch.equal(EndToken(end=3, pad=0).finish(tokens), expected)


def test_a_network_without_a_length_predictor_is_refused():
    _, network = truth()
    with pytest.raises(ValueError, match="LengthPredictor"):
        EmbeddingSampler(DDIM, length=PredictedLength(0)).sample(network, PROCESS, (1, 3), 2, torch.Generator())
