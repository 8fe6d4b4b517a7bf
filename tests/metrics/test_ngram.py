import itertools
import math
from collections import Counter, defaultdict

import pytest
import torch
from safetensors.torch import load, save

from isocline.metrics.ngram import KneserNey

V = 6


def rows(count=40, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    return torch.multinomial(weights, count * length, replacement=True, generator=generator).view(count, length)


def brute_force(training, order):
    """Interpolated Kneser–Ney by dictionaries, straight from the recursion."""
    counts = {order: Counter()}
    for row in training.tolist():
        for i in range(len(row) - order + 1):
            counts[order][tuple(row[i : i + order])] += 1
    for k in range(order - 1, 0, -1):
        counts[k] = Counter(gram[1:] for gram in counts[k + 1])
    discounts = {}
    for k, table in counts.items():
        ones, twos = (sum(c == n for c in table.values()) for n in (1, 2))
        discounts[k] = ones / (ones + 2 * twos) if ones and twos else 0.5

    def probability(context, word, k):
        if k == 0:
            return 1 / V
        context = context[len(context) - (k - 1) :] if k > 1 else ()
        followers = {gram: c for gram, c in counts[k].items() if gram[:-1] == tuple(context)}
        lower = probability(context[1:], word, k - 1)
        if not followers:
            return lower
        total = sum(followers.values())
        kept = max(followers.get((*context, word), 0) - discounts[k], 0) / total
        return kept + discounts[k] * len(followers) / total * lower

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_equals_the_recursion_by_dictionaries(order):
    training, held_out = rows(), rows(5, 6, seed=1)
    held_out[0, 2] = V - 1
    model, probability = KneserNey.fit(training, V, order), brute_force(training, order)
    for row, found in zip(held_out.tolist(), model.log_probs(held_out).tolist(), strict=True):
        for i, value in enumerate(found):
            expected = probability(tuple(row[max(0, i - order + 1) : i]), row[i], min(order, i + 1))
            assert value == pytest.approx(math.log(expected), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_sum_to_one_after_seen_and_unseen_contexts(order):
    model = KneserNey.fit(rows(10), V, order)
    sequences = torch.tensor(list(itertools.product(range(V), repeat=3)))
    total = model.log_prob(sequences).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-12)
    last = model.log_probs(sequences)[:, -1].exp().view(V * V, V).sum(dim=1)
    assert torch.allclose(last, torch.ones(V * V, dtype=torch.float64), atol=1e-12)


def test_a_word_that_follows_one_context_only_is_unlikely_elsewhere():
    """The point of Kneser–Ney: token 1 is frequent, but only ever after token 0."""
    training = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 4, 3, 2, 4, 2, 3]])
    model = KneserNey.fit(training, V, 2)
    unigram = model.log_probs(torch.tensor([[1], [3]]))[:, 0]
    assert unigram[0] < unigram[1]
    assert training.eq(1).sum() > training.eq(3).sum()


def test_more_context_helps_on_a_markov_source():
    generator = torch.Generator().manual_seed(0)
    step = torch.softmax(3 * torch.randn(V - 1, V - 1, V - 1, generator=generator), dim=-1)
    states = [torch.zeros(300, dtype=torch.int64)] * 2
    for _ in range(30):
        states.append(torch.multinomial(step[states[-2], states[-1]], 1, generator=generator)[:, 0])
    tokens = torch.stack(states, dim=1)
    nats = [KneserNey.fit(tokens[:250], V, order).negative_log_likelihood(tokens[250:]).mean() for order in (1, 2, 3)]
    assert nats[0] > nats[1] > nats[2]


def test_it_survives_being_written_and_read():
    model = KneserNey.fit(rows(), V, 3)
    read = KneserNey.from_state_dict(load(save(model.state_dict())))
    assert read.order == 3
    assert torch.equal(read.log_prob(rows(seed=2)), model.log_prob(rows(seed=2)))


def test_fitting_again_gives_the_same_bytes():
    first, second = (save(KneserNey.fit(rows(), V, 3).state_dict()) for _ in range(2))
    assert first == second


def test_rows_do_not_see_each_other():
    model = KneserNey.fit(rows(), V, 3)
    alone = torch.cat([model.log_prob(row[None]) for row in rows(seed=3)])
    assert torch.equal(alone, model.log_prob(rows(seed=3)))


def test_rows_shorter_than_the_order_are_scored():
    model = KneserNey.fit(rows(), V, 4)
    whole = rows(3, 9, seed=4)
    assert torch.equal(model.log_probs(whole[:, :2]), model.log_probs(whole)[:, :2])


@pytest.mark.parametrize(
    ("tokens", "order", "match"),
    [
        (torch.zeros(2, 5, dtype=torch.int64), 0, "order = 0"),
        (torch.zeros(2, 5, dtype=torch.int64), 6, "order = 6"),
        (torch.full((2, 5), V), 2, "vocab_size = 6"),
        (torch.zeros(2, 5), 2, "int64"),
    ],
)
def test_wrong_input_is_refused(tokens, order, match):
    with pytest.raises(ValueError, match=match):
        KneserNey.fit(tokens, V, order)


def test_keys_that_would_overflow_are_refused():
    with pytest.raises(ValueError, match="overflow"):
        KneserNey.fit(torch.zeros(2, 9, dtype=torch.int64), 50_000, 5)


def test_a_file_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not an n-gram model"):
        KneserNey.from_state_dict(defaultdict(torch.Tensor, {"weight": torch.zeros(1)}))
