import itertools

import pytest
import torch
from safetensors.torch import save

from isocline.metrics.judge_text import negative_log_likelihood, train_judge_ar
from isocline.networks.transformer import TokenTransformer


def network(length=3, vocab_size=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TokenTransformer(vocab_size, length, 16, 1, 2, causal=True, time_conditioned=False)


def cycle(rows=32, length=12):
    return (torch.arange(length) + torch.arange(rows)[:, None]) % 3


def test_it_scores_a_normalised_law_over_the_real_symbols():
    sequences = torch.tensor(list(itertools.product(range(3), repeat=3)))
    total = (-negative_log_likelihood(network(), sequences)).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)


def test_it_learns_a_cycle():
    judge = network(length=12)
    losses = train_judge_ar(judge, cycle(), 0, steps=80, batch_size=16, lr=1e-2)
    assert losses[0] > 0.9
    # only the first token is uncertain: ln 3 nats in all
    assert negative_log_likelihood(judge, cycle()).mean() < 2.0


def test_training_again_gives_the_same_bytes():
    written = []
    for _ in range(2):
        judge = network(length=12)
        train_judge_ar(judge, cycle(), 0, steps=3, batch_size=16, lr=1e-2)
        written.append(save({name: t.clone() for name, t in judge.state_dict().items()}))
        torch.rand(3)
    assert written[0] == written[1]


def test_scores_do_not_depend_on_the_batch():
    scores = negative_log_likelihood(network(length=12), cycle())
    assert scores.dtype == torch.float64
    assert torch.allclose(negative_log_likelihood(network(length=12), cycle(), batch_size=5), scores, atol=1e-5)


def test_progress_is_reported_after_each_step():
    seen = []
    train_judge_ar(network(12), cycle(), 0, steps=3, batch_size=8, lr=1e-3, progress=lambda s, loss: seen.append(s))
    assert seen == [1, 2, 3]


def test_a_diverging_run_stops_with_the_cure():
    with pytest.raises(FloatingPointError, match="lower"):
        train_judge_ar(network(12), cycle(), 0, steps=30, batch_size=8, lr=float("inf"))
