"""Cross-entropy by its closed forms, and a classifier that learns."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from isocline.datasets.batch import Batch
from isocline.datasets.images import Digits
from isocline.datasets.quantisation import to_float
from isocline.networks.ode_classifier import ODEClassifier
from isocline.objectives.classification import Classification
from isocline.randomness import generator
from isocline.solvers import Bosh3, PIDController
from isocline.solvers.gradient import Backpropagation, BacksolveAdjoint


class Said(NamedTuple):
    logits: Tensor
    nfe: Tensor


def answering(logits):
    return lambda x: Said(logits, torch.tensor([3, 5]))


BATCH = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]))


def test_knowing_nothing_costs_the_logarithm_of_the_number_of_classes():
    loss = Classification()(answering(torch.zeros(2, 10)), BATCH, generator(0, "test"))
    assert loss.total.item() == pytest.approx(math.log(10))
    assert loss.terms["nfe"] == 4


def test_the_loss_and_its_terms_are_those_computed_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [1.0, 3.0, 0.0]])
    loss = Classification()(answering(logits), BATCH, generator(0, "test"))
    first = math.log(math.exp(2) + 2) - 2
    second = math.log(math.exp(1) + math.exp(3) + 1)
    assert loss.total.item() == pytest.approx((first + second) / 2)
    assert loss.terms["accuracy"] == 0.5


def test_smoothing_mixes_in_the_mean_over_all_classes():
    logits = torch.tensor([[2.0, 0.0, -1.0], [1.0, 3.0, 0.0]])
    log_probs = logits.log_softmax(1)
    plain = -(log_probs[0, 0] + log_probs[1, 2]) / 2
    loss = Classification(smoothing=0.3)(answering(logits), BATCH, generator(0, "test"))
    assert loss.total.item() == pytest.approx(float(0.7 * plain - 0.3 * log_probs.mean()))


def test_a_batch_without_labels_names_the_cure():
    with pytest.raises(ValueError, match=r"no labels.*network\.classes"):
        Classification()(answering(torch.zeros(2, 10)), Batch(BATCH.x0), generator(0, "test"))
    with pytest.raises(ValueError, match="smoothing = 1"):
        Classification(smoothing=1.0)


@pytest.mark.parametrize("gradient", [Backpropagation(), BacksolveAdjoint(check=False)])
def test_a_neural_ode_learns_the_digits(gradient):
    arrays = Digits().load().pool
    x, labels = to_float(arrays.images), arrays.labels
    torch.manual_seed(0)
    network = ODEClassifier(1, 8, 10, Bosh3(), PIDController(1e-2, 1e-2), gradient, width=8)
    objective, draws = Classification(), generator(0, "test")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(40):
        rows = torch.arange(32 * step, 32 * (step + 1)) % 1500
        optimizer.zero_grad()
        objective(network, Batch(x[rows], labels[rows]), draws).total.backward()
        optimizer.step()
    with torch.no_grad():
        held_out = objective(network, Batch(x[1500:], labels[1500:]), draws)
    assert held_out.terms["accuracy"] > 0.6  # 0.1 by chance
