"""Bits per character, perplexity and text statistics against known sources."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.metrics.perplexity import bits_per_character, corpus_perplexity, nats_per_token
from isocline.metrics.text_statistics import (
    dictionary_share,
    distinct_n,
    jensen_shannon,
    self_bleu,
    sequence_entropy,
    vocabulary_of,
    words_of,
)


def test_a_fair_coin_costs_one_bit_a_character():
    nats = torch.full((6,), 10 * math.log(2.0), dtype=torch.float64)
    estimate = bits_per_character(nats, torch.full((6,), 10))
    assert estimate.mean == pytest.approx(1.0)
    assert estimate.se == pytest.approx(0.0, abs=1e-12)


def test_a_biased_coin_costs_its_entropy():
    p = 0.1
    flips = torch.rand(4000, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < p
    nats = torch.where(flips, -math.log(p), -math.log(1 - p)).sum(1)
    entropy = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    estimate = bits_per_character(nats, torch.full((4000,), 50))
    assert abs(estimate.mean - entropy) < 4 * estimate.se
    exact_se = math.sqrt(p * (1 - p) * math.log2((1 - p) / p) ** 2 / (4000 * 50))
    assert estimate.se == pytest.approx(exact_se, rel=0.05)


def test_characters_are_pooled_not_averaged_by_row():
    estimate = bits_per_character(torch.tensor([1.0, 9.0]) * math.log(2), torch.tensor([1, 3]))
    assert estimate.mean == pytest.approx(10 / 4)


def test_perplexity_of_a_known_markov_chain_is_the_exponential_of_its_entropy_rate():
    transition = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    state = (torch.rand(3000, generator=generator) < 1 / 6).long()
    nats = torch.zeros(3000, dtype=torch.float64)
    for _ in range(60):
        following = torch.multinomial(transition[state], 1, generator=generator)[:, 0]
        nats -= transition[state, following].log()
        state = following
    rate = -float((torch.tensor([5 / 6, 1 / 6]).double()[:, None] * transition * transition.log()).sum())
    estimate = corpus_perplexity(nats, 60)
    assert abs(estimate.mean - math.exp(rate)) < 4 * estimate.se
    assert estimate.se < 0.02


def test_perplexity_of_a_uniform_guess_is_the_vocabulary():
    assert corpus_perplexity(torch.full((3,), 7 * math.log(27.0)), 7).mean == pytest.approx(27.0)
    assert nats_per_token(torch.full((3,), 7 * math.log(27.0)), 7).mean == pytest.approx(math.log(27.0))


def test_sequence_entropy_counts_tokens_inside_each_sequence():
    tokens = torch.tensor([[5, 5, 5, 5], [1, 2, 3, 4], [1, 1, 2, 2], [2, 1, 2, 1]])
    expected = [0.0, math.log(4), math.log(2), math.log(2)]
    assert sequence_entropy(tokens).tolist() == pytest.approx(expected)


def test_cut_words_at_the_window_ends_are_not_counted():
    assert words_of("ginning God's heaven and, ear", whole=True) == ["god's", "heaven", "and"]
    assert vocabulary_of(["he light was goo"]) == {"light", "was"}


def test_dictionary_share_is_the_share_of_known_words():
    known = frozenset({"and", "light"})
    assert dictionary_share(["x and ligth light and y"], known) == pytest.approx(0.75)
    assert dictionary_share([""], known) == 0.0


def test_distinct_n_of_a_repeated_word_and_of_all_different_words():
    assert distinct_n(["and and and and"], 2) == pytest.approx(1 / 3)
    assert distinct_n(["a b c d"], 2) == 1.0
    assert distinct_n(["a"], 2) == 0.0


def test_jensen_shannon_is_zero_for_equal_and_one_for_disjoint_texts():
    assert jensen_shannon(["abcabc"], ["abcabc"]) == pytest.approx(0.0, abs=1e-12)
    assert jensen_shannon(["aaaa"], ["bbbb"]) == pytest.approx(1.0)


def test_jensen_shannon_of_two_coins_is_the_closed_form():
    p, q = 0.75, 0.25
    middle = 0.5
    one_side = 0.5 * (p * math.log2(p / middle) + (1 - p) * math.log2((1 - p) / middle))
    other_side = 0.5 * (q * math.log2(q / middle) + (1 - q) * math.log2((1 - q) / middle))
    assert jensen_shannon(["aaab"], ["abbb"], n=1) == pytest.approx(one_side + other_side)


def test_jensen_shannon_refuses_empty_texts():
    with pytest.raises(ValueError, match="3-grams"):
        jensen_shannon(["ab"], ["abcd"])


def test_self_bleu_is_one_for_a_repeated_text_and_zero_for_texts_without_a_common_gram():
    assert self_bleu(["and it came to pass"] * 3) == pytest.approx(1.0)
    assert self_bleu(["a b c d e", "f g h i j"]) == 0.0
    assert self_bleu(["a b", "a b"]) == 0.0  # no four words
    assert self_bleu(["a b", "a b"], n=2) == pytest.approx(1.0)


def test_self_bleu_is_the_mean_bleu_of_torchmetrics_against_the_other_texts():
    from torchmetrics.functional.text import bleu_score

    stream = torch.Generator().manual_seed(0)
    words = ["and", "it", "came", "to", "pass", "that"]
    sizes = [9, 14, 14, 7, 20, 11]
    texts = [" ".join(words[int(i)] for i in torch.randint(4, (size,), generator=stream)) for size in sizes]
    texts += [texts[0] + " pass that"]
    expected = [
        float(bleu_score([text], [[other for j, other in enumerate(texts) if j != i]])) for i, text in enumerate(texts)
    ]
    assert min(expected) < 0.5 < max(expected)
    assert self_bleu(texts) == pytest.approx(sum(expected) / len(expected), abs=1e-6)
