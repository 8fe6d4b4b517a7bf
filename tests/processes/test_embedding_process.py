"""Embeddings of tokens: evidence, expectation and rounding agree with Bayes' rule."""

import math

import pytest
import torch

from isocline.processes.embedding import EmbeddingProcess, expected_embedding, log_evidence
from isocline.processes.enumerated import EnumeratedLaw
from isocline.processes.enumerated_embedding import EnumeratedEmbeddingDenoiser
from isocline.processes.rounding import NearestRounding, SoftmaxRounding
from isocline.processes.schedule import VPCosineSchedule

SCHEDULE = VPCosineSchedule(max_log_ratio=3.0)


def table(symbols=5, width=3, seed=0):
    return torch.randn(symbols, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(batch=4, length=2, width=3, seed=1):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_evidence_of_a_position_is_its_gaussian_likelihood_but_for_a_constant():
    x, rows = states(), table()
    values = SCHEDULE(torch.tensor([0.1, 0.4, 0.7, 1.0]))
    found = log_evidence(x, rows, values).log_softmax(-1)
    alpha, sigma = values.alpha.view(-1, 1, 1, 1), values.sigma.view(-1, 1, 1)
    distance = (x.unsqueeze(2) - alpha * rows).square().sum(-1)
    torch.testing.assert_close(found, (-distance / (2 * sigma.square())).log_softmax(-1), rtol=1e-10, atol=1e-10)


def test_the_evidence_is_the_whole_posterior_of_independent_equally_frequent_tokens():
    law, rows = EnumeratedLaw(torch.ones(5, 5)), table()
    exact = EnumeratedEmbeddingDenoiser(law, rows, SCHEDULE)
    t, x = torch.tensor([0.2, 0.5, 0.6, 0.9]), states()
    torch.testing.assert_close(
        exact(t, x)[..., :-1].exp(), log_evidence(x, rows, SCHEDULE(t)).softmax(-1), rtol=1e-9, atol=1e-12
    )


def test_the_mask_is_never_a_clean_token():
    process = EmbeddingProcess(6, SCHEDULE)
    probs = process.clean_log_probs(torch.zeros(1, 2, 6)).exp()
    torch.testing.assert_close(probs[..., :-1], torch.full((1, 2, 5), 0.2))
    assert probs[..., -1].max() == 0


def test_the_expected_embedding_of_a_sure_token_is_its_embedding():
    rows = table()
    sure = torch.nn.functional.one_hot(torch.tensor([[3, 0]]), 6).double()
    torch.testing.assert_close(expected_embedding(sure, rows), rows[torch.tensor([[3, 0]])])


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_nearest_rounding_finds_the_least_distance(alpha):
    x, rows = states(batch=50), table()
    found = NearestRounding().log_probs(x, rows, alpha)
    distance = (x.unsqueeze(2) - alpha * rows).square().sum(-1)
    assert torch.equal(found.argmax(-1), distance.argmin(-1))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(50, 2, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_softmax_rounding_is_the_law_of_the_token_under_noise_of_its_width(alpha):
    x, rows, width = states(), table(), 0.7
    found = SoftmaxRounding(width).log_probs(x, rows, alpha)
    distance = (x.unsqueeze(2) - alpha * rows).square().sum(-1)
    torch.testing.assert_close(found, (-distance / (2 * width**2)).log_softmax(-1), rtol=1e-10, atol=1e-10)


def test_softmax_rounding_tends_to_the_nearest_embedding():
    x, rows = states(batch=20), table()
    narrow = SoftmaxRounding(1e-3).log_probs(x, rows).exp()
    torch.testing.assert_close(narrow, NearestRounding().log_probs(x, rows).exp())


def test_every_embedding_rounds_to_its_own_token():
    rows = table(symbols=30, width=4)
    assert torch.equal(NearestRounding().log_probs(rows.unsqueeze(0), rows).argmax(-1)[0], torch.arange(30))


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="vocab_size = 1"):
        EmbeddingProcess(1, SCHEDULE)
    with pytest.raises(ValueError, match="width = 0"):
        SoftmaxRounding(0)
    assert math.isfinite(EmbeddingProcess(3, SCHEDULE).mask)
