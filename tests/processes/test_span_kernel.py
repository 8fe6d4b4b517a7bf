"""Spans are masked whole, their partition is a law of its own, and the masked integral stays a bound."""

import itertools

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.objectives.masked import MaskedDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.span_kernel import FixedSpans, GeometricSpans, SpanKernel
from isocline.processes.token_schedule import LinearSurvival


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("spans", [GeometricSpans(2.5), FixedSpans(3)], ids=["geometric", "fixed"])
def test_positions_of_one_span_share_their_fate(spans):
    kernel = SpanKernel(4, LinearSurvival(), spans)
    x0 = torch.zeros(500, 24, dtype=torch.int64)
    masked = kernel.sample(x0, torch.tensor(0.5), draws()) == kernel.mask
    span = spans.partition(x0.shape, draws())  # the first draw of the same stream
    whole = torch.zeros(500, 24).scatter_add(1, span, masked.float()) / torch.zeros(500, 24).scatter_add(
        1, span, torch.ones(500, 24)
    )
    assert set(whole[~whole.isnan()].tolist()) == {0.0, 1.0}


def test_geometric_spans_have_the_asked_mean_and_fixed_ones_their_length():
    span = GeometricSpans(4.0).partition((200, 500), draws())
    assert span[:, 0].tolist() == [0] * 200
    assert abs(500 / (span[:, -1].double().mean() + 1) - 4.0) < 0.1
    fixed = FixedSpans(3).partition((300, 20), draws())
    inner = [torch.bincount(row)[1:-1] for row in fixed]
    assert all((lengths == 3).all() for lengths in inner)
    assert {int((row == 0).sum()) for row in fixed} == {1, 2, 3}


@pytest.mark.parametrize("spans", [GeometricSpans(1.0), FixedSpans(1)], ids=["geometric", "fixed"])
def test_spans_of_one_token_are_positions(spans):
    assert spans.partition((2, 5), draws()).tolist() == [[0, 1, 2, 3, 4]] * 2


def exact_bound(truth, network, spans):
    """∫ 1/t E_{S,z} Σ_masked −log p(x_i|z) dt over the spans of three positions, in closed form, per sequence."""
    partitions = {2: [[[0], [1, 2]], [[0, 1], [2]]], 1: [[[0], [1], [2]]]}[spans.length]
    total = torch.zeros(len(truth.sequences), dtype=torch.float64)
    for parts in partitions:
        k = len(parts)
        for kept in itertools.product([False, True], repeat=k):
            hidden = [i for part, keep in zip(parts, kept, strict=True) if not keep for i in part]
            m = k - sum(kept)
            if m == 0:
                continue
            z = truth.sequences.clone()
            z[:, hidden] = truth.symbols
            logits = network(torch.tensor(0.5), z)
            cost = -logits.log_softmax(-1).gather(-1, truth.sequences.unsqueeze(-1))[:, hidden, 0].sum(-1)
            # ∫ t^(m−1) (1−t)^(k−m) dt
            weight = torch.exp(
                torch.lgamma(torch.tensor([m, k - m + 1.0]).double()).sum() - torch.lgamma(torch.tensor(k + 1.0))
            )
            total = total + weight * cost / len(partitions)
    return total


def test_the_bound_of_spans_is_above_the_entropy_by_what_a_span_hides_and_tight_for_single_tokens():
    truth = EnumeratedLaw.random(3, 3, 2.0, draws())
    kernel = SpanKernel(4, LinearSurvival(), FixedSpans(2))
    network = EnumeratedDenoiser(truth, kernel)
    singles = exact_bound(truth, network, FixedSpans(1))
    torch.testing.assert_close((truth.probs * singles).sum(), truth.entropy)
    pairs = (truth.probs * exact_bound(truth, network, FixedSpans(2))).sum()
    assert pairs > truth.entropy + 0.01
    objective, stream = MaskedDiffusion(kernel), draws(1)
    losses = torch.stack([objective(network, Batch(truth.sample(500, stream)), stream).total * 3 for _ in range(60)])
    assert (losses.mean() - pairs).abs() < 4 * losses.std() / len(losses) ** 0.5
    assert 4 * losses.std() / len(losses) ** 0.5 < 0.1 * pairs


def test_a_model_of_spans_is_evaluated_position_by_position():
    truth = EnumeratedLaw.random(3, 3, 2.0, draws())
    kernel = SpanKernel(4, LinearSurvival(), FixedSpans(2))
    stream = draws(2)
    tokens = truth.sample(4000, stream)
    network = EnumeratedDenoiser(truth, kernel)
    excess = MaskedDiffusion(kernel).negative_log_likelihood(network, tokens, stream, 3).nats - truth.nats(tokens)
    assert excess.mean().abs() < 4 * excess.std() / len(excess) ** 0.5


def test_spans_without_a_token_are_refused():
    with pytest.raises(ValueError, match=r"mean = 0\.5"):
        GeometricSpans(0.5)
    with pytest.raises(ValueError, match="length = 0"):
        FixedSpans(0)
