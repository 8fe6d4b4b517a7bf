"""The Transformer over soft tokens."""

import pytest
import torch

from isocline.networks.soft_token_transformer import SoftTokenTransformer


def network(**options):
    torch.manual_seed(0)
    made = SoftTokenTransformer(9, 5, 16, 2, 4, **options)
    with torch.no_grad():  # adaLN-zero blocks are the identity at first
        for parameter in made.trunk.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def laws(count=3):
    return torch.randn(count, 5, 8, generator=torch.Generator().manual_seed(0)).softmax(-1)


def test_logits_are_over_the_real_symbols():
    assert network()(torch.rand(3), laws()).shape == (3, 5, 8)
    assert network()(torch.tensor(0.5), laws().double()).dtype == torch.float32


def test_a_mixture_of_laws_is_embedded_as_the_mixture_of_their_embeddings():
    made = network()
    made.certainty.data.zero_()
    seen = []
    made.trunk.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    first, second = laws(2).unbind(0)
    for law in (first, second, 0.3 * first + 0.7 * second):
        made(torch.tensor(0.5), law.unsqueeze(0))
    torch.testing.assert_close(seen[2], 0.3 * seen[0] + 0.7 * seen[1])


def test_certainty_is_seen_where_the_mean_embedding_is_not():
    made = network()
    made.embed.weight.data.zero_()
    sure = torch.nn.functional.one_hot(torch.zeros(1, 5, dtype=torch.int64), 8).float()
    feature = []
    made.trunk.register_forward_pre_hook(lambda module, args: feature.append(args[0]))
    made(torch.tensor(0.5), sure)
    made(torch.tensor(0.5), torch.full_like(sure, 1 / 8))
    torch.testing.assert_close(feature[0], 8 * feature[1])


def test_an_earlier_prediction_adds_nothing_at_first_and_something_later():
    made = network(self_conditioning=True)
    t, x, before = torch.tensor(0.5), laws(), laws().flip(0)
    torch.testing.assert_close(made(t, x, previous=before), made(t, x))
    made.previous.weight.data.normal_()
    assert not torch.allclose(made(t, x, previous=before), made(t, x))


def test_a_second_time_adds_nothing_at_first_and_something_later():
    made = network(end_time=True)
    assert made.takes_end
    t, s, x = torch.tensor(0.5), torch.tensor(0.1), laws()
    torch.testing.assert_close(made(t, x, s=s), made(t, x))
    made.condition.end.mlp[-1].weight.data.normal_()
    assert not torch.allclose(made(t, x, s=s), made(t, x))


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab_size = 2"):
        SoftTokenTransformer(2, 5, 16, 1, 2)
