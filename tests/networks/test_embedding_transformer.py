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
    torch.testing.assert_close(network(t, x), network(t, x, None, torch.zeros_like(guess)))
    assert (network(t, x) - network(t, x, None, guess)).abs().max() > 1e-3
    deaf = make(self_conditioning=False)
    torch.testing.assert_close(deaf(t, x), deaf(t, x, None, guess))
    assert deaf.takes_previous is False


def test_the_schedule_adds_the_evidence_of_each_position_and_nothing_else():
    schedule = VPCosineSchedule(3.0)
    plain, informed, (t, x, _) = make(), make(schedule=schedule), inputs()
    added = informed(t, x) - plain(t, x)
    torch.testing.assert_close(added[..., :-1], log_evidence(x, plain.table(), schedule(t)))
    assert added[..., -1].abs().max() == 0


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
