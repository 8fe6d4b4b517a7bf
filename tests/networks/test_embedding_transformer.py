"""The Transformer on embeddings: what its inputs do, and what the embeddings may not become."""

import pytest
import torch

from isocline.networks.embedding_transformer import EmbeddingTransformer
from isocline.networks.length_predictor import LengthPredictor
from isocline.processes.embedding import log_evidence
from isocline.processes.schedule import VPCosineSchedule


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    return EmbeddingTransformer(11, 6, 16, 2, 2, dimension=4, **kwargs)


def inputs():
    stream = torch.Generator().manual_seed(0)
    return torch.tensor([0.2, 0.7]), torch.randn(2, 6, 4, generator=stream), torch.randn(2, 6, 4, generator=stream)


def test_embeddings_have_the_norm_whatever_the_weights():
    network = make(norm=1.5)
    with torch.no_grad():
        network.embedding.mul_(7)
    torch.testing.assert_close(network.table().norm(dim=-1), torch.full((10,), 1.5))
    tokens = torch.tensor([[0, 9, 3]])
    assert torch.equal(network.embed(tokens), network.table()[tokens])


def test_a_free_norm_is_that_of_the_weights():
    network = make(norm=None)
    assert torch.equal(network.table(), network.embedding)


def test_an_absent_guess_is_a_guess_of_zeros_and_a_guess_is_heard():
    network, (t, x, guess) = make(), inputs()
    # A new network does not hear it yet.
    torch.testing.assert_close(network(t, x), network(t, x, None, guess))
    torch.nn.init.normal_(network.guess.weight)
    torch.testing.assert_close(network(t, x), network(t, x, None, torch.zeros_like(guess)))
    assert (network(t, x) - network(t, x, None, guess)).abs().max() > 1e-3
    deaf = make(self_conditioning=False)
    torch.testing.assert_close(deaf(t, x), deaf(t, x, None, guess))
    assert deaf.takes_previous is False


def test_with_the_schedule_a_silent_transformer_has_the_posterior_of_independent_tokens():
    schedule = VPCosineSchedule(3.0)
    network, (t, x, _) = make(schedule=schedule), inputs()
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.normal_(network.head.bias)
    expected = network.head.bias[:-1] + log_evidence(x, network.table(), schedule(t))
    torch.testing.assert_close(network(t, x)[..., :-1], expected)


def test_a_position_is_read_as_the_embedding_that_it_expects_by_itself():
    schedule = VPCosineSchedule(3.0)
    network, tokens = make(schedule=schedule), torch.tensor([[0, 9, 3, 3, 1, 2]])
    seen = []
    network.enter.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    clean = network.embed(tokens)
    network(torch.tensor(0.0), clean * schedule(0.0).alpha.float())
    torch.testing.assert_close(seen[0], clean, rtol=1e-4, atol=1e-4)
    # Where only noise is left, whatever the state: the embedding expected of any token.
    faint = VPCosineSchedule()
    network.schedule = faint
    network(torch.tensor(1.0), torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)))
    expected = network.head.bias[:-1].softmax(-1) @ network.table()
    torch.testing.assert_close(seen[1], expected.expand(1, 6, 4))


def test_a_position_sees_all_others_and_the_label():
    network, (t, x, _) = make(classes=3), inputs()
    # adaLN-zero: context and condition are heard once the gates have been trained.
    for block in network.trunk.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    changed = x.clone()
    changed[:, -1] += 1
    assert ((network(t, x) - network(t, changed)).abs().amax(-1) > 0).all()
    labelled = network(t, x, torch.tensor([1, 2]))
    assert (labelled - network(t, x)).abs().max() > 1e-4
    torch.testing.assert_close(network(t, x, torch.tensor([-1, -1])), network(t, x))


def test_lengths_have_a_law_for_each_class():
    predictor = LengthPredictor(5, classes=2)
    torch.nn.init.normal_(predictor.logits.weight)
    law = predictor(3, torch.tensor([0, 1, -1]))
    assert law.shape == (3, 5)
    torch.testing.assert_close(law.exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(predictor(1), law[2:])
    assert (law[0] - law[1]).abs().max() > 0.1


@pytest.mark.parametrize(("wrong", "message"), [({"norm": 0.0}, "norm = 0.0"), ({"dimension": 0}, "dimension = 0")])
def test_sizes_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingTransformer(11, 6, 16, 2, 2, **wrong)
    with pytest.raises(ValueError, match="vocab_size = 1"):
        EmbeddingTransformer(1, 6, 16, 2, 2)
    with pytest.raises(ValueError, match="length = 0"):
        LengthPredictor(0)
