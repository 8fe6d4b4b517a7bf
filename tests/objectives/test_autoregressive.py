"""The chain rule, against a law known exactly."""

import pytest
import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.processes.enumerated import EnumeratedLaw, EnumeratedNextToken


def law():
    return EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))


def test_the_exact_network_has_the_exact_likelihood():
    truth = law()
    found = AutoregressiveObjective().negative_log_likelihood(EnumeratedNextToken(truth), truth.sequences)
    assert found.kind == "exact"
    torch.testing.assert_close(found.nats, truth.nats(truth.sequences))


def test_the_loss_is_the_likelihood_per_token():
    truth, objective, stream = law(), AutoregressiveObjective(), torch.Generator()
    network = EnumeratedNextToken(truth)
    loss = objective(network, Batch(truth.sequences), stream)
    torch.testing.assert_close(loss.total, truth.nats(truth.sequences).mean() / 3)
    assert not loss.terms["nats_per_token"].requires_grad


def test_a_causal_transformer_defines_a_normalised_law_without_the_mask():
    truth = law()
    torch.manual_seed(0)
    network = TokenTransformer(4, 3, 16, 1, 2, causal=True, time_conditioned=False)
    nn.init.normal_(network.bias)
    nats = AutoregressiveObjective().negative_log_likelihood(network, truth.sequences).nats
    torch.testing.assert_close((-nats).exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_network_that_hides_its_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size"):
        AutoregressiveObjective()(nn.Linear(1, 1), Batch(torch.zeros(1, 2, dtype=torch.int64)), torch.Generator())
