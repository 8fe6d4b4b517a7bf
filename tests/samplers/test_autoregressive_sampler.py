"""Left-to-right sampling: exact law, cached and uncached alike."""

import torch

from isocline.networks.transformer import TokenTransformer
from isocline.processes.enumerated import EnumeratedLaw, EnumeratedNextToken
from isocline.samplers.autoregressive import AutoregressiveSampler


def law():
    return EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))


def test_the_exact_network_reproduces_the_law():
    truth = law()
    sampler, stream = AutoregressiveSampler(), torch.Generator().manual_seed(0)
    solution = sampler.sample(EnumeratedNextToken(truth), None, (10_000, 3), None, stream)
    assert 0.5 * (truth.frequencies(solution.final) - truth.probs).abs().sum() < 0.025
    assert (solution.stats.nfe == 3).all()


def test_a_prefix_is_conditioned_on():
    truth = law()
    prompt = (torch.tensor([2, 0, 0]), torch.tensor([True, False, False]))
    solution = AutoregressiveSampler().sample(
        EnumeratedNextToken(truth), None, (10_000, 3), 3, torch.Generator().manual_seed(0), prompt=prompt
    )
    conditional = truth.probs * (truth.sequences[:, 0] == 2)
    conditional /= conditional.sum()
    assert 0.5 * (truth.frequencies(solution.final) - conditional).abs().sum() < 0.025


def test_a_token_fixed_inside_is_kept():
    prompt = (torch.tensor([0, 1, 0]), torch.tensor([False, True, False]))
    solution = AutoregressiveSampler().sample(
        EnumeratedNextToken(law()), None, (50, 3), 3, torch.Generator().manual_seed(0), prompt=prompt
    )
    assert (solution.final[:, 1] == 1).all()


def test_the_cache_changes_nothing_but_the_work():
    torch.manual_seed(0)
    network = TokenTransformer(7, 10, 32, 2, 4, causal=True, time_conditioned=False).double()
    torch.nn.init.normal_(network.embed.weight)
    forwards = []
    network.register_forward_hook(lambda *_: forwards.append(1))
    cached = AutoregressiveSampler().sample(network, None, (20, 10), 10, torch.Generator().manual_seed(0))
    assert not forwards
    plain = _without_cache(network)
    full = AutoregressiveSampler().sample(plain, None, (20, 10), 10, torch.Generator().manual_seed(0))
    assert len(forwards) == 10
    assert torch.equal(cached.final, full.final)


def _without_cache(network):
    class Plain(torch.nn.Module):
        vocab_size = 7

        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, t, z, cond=None):
            return self.inner(t, z, cond)

    return Plain()


def test_the_mask_is_never_drawn_and_steps_fill_from_the_left():
    torch.manual_seed(0)
    network = TokenTransformer(5, 4, 16, 1, 2, causal=True, time_conditioned=False)
    with torch.no_grad():
        network.bias[-1] = 50.0
    solution = AutoregressiveSampler().sample(network, None, (30, 4), 4, torch.Generator(), save_steps=True)
    assert solution.final.max() <= 3
    assert [(state != 4).sum(-1).unique().tolist() for state in solution.ys] == [[0], [1], [2], [3], [4]]


def test_a_network_that_refuses_a_cache_is_run_in_full():
    network = TokenTransformer(5, 4, 16, 1, 2, causal=True, time_conditioned=True)
    solution = AutoregressiveSampler(temperature=0.0).sample(network, None, (2, 4), 4, torch.Generator())
    assert solution.final.max() <= 3


def test_the_class_reaches_the_network_with_and_without_a_cache():
    torch.manual_seed(0)
    network = TokenTransformer(7, 10, 32, 2, 4, causal=True, time_conditioned=False, classes=2).double()
    for table in (network.embed, network.label):
        torch.nn.init.normal_(table.weight)
    labels, found = torch.tensor([0, 1] * 10), []
    for each in (network, _without_cache(network)):
        stream = torch.Generator().manual_seed(0)
        found.append(AutoregressiveSampler().sample(each, None, (20, 10), 10, stream, cond=labels).final)
    assert torch.equal(found[0], found[1])
    other = AutoregressiveSampler().sample(
        network, None, (20, 10), 10, torch.Generator().manual_seed(0), cond=1 - labels
    )
    assert not torch.equal(found[0], other.final)
