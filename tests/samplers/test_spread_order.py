"""The spread order: distances within a step, every position once, and what it saves against a random order."""

import itertools

import pytest
import torch

from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.discrete import ConfidenceSampler
from isocline.samplers.order import RandomOrder
from isocline.samplers.spread_order import SpreadOrder, van_der_corput


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform_network(t, z, cond=None):
    return torch.zeros(*z.shape, 4)


def test_prefixes_of_the_sequence_are_evenly_spaced():
    assert van_der_corput(3).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    for k in range(7):
        assert van_der_corput(6)[: 2**k].sort().values.diff().unique().tolist() in ([], [2 ** (6 - k)])


@pytest.mark.parametrize("steps", [2, 4, 8, 16])
def test_positions_of_one_step_are_as_far_apart_as_there_are_steps(steps):
    kernel = AbsorbingKernel(4, LinearSurvival())
    states = (
        ConfidenceSampler(SpreadOrder()).sample(uniform_network, kernel, (20, 64), steps, draws(), save_steps=True).ys
    )
    assert len(states) == steps + 1
    seen = torch.zeros(20, 64, dtype=torch.bool)
    for before, after in itertools.pairwise(states):
        decided = (before == 3) & (after != 3)
        assert not (seen & decided).any()
        seen |= decided
        for row in decided:
            assert row.nonzero().flatten().diff().unique().tolist() == [steps]
    assert seen.all()
    # The first class of positions differs from sequence to sequence.
    assert len({int(row.nonzero()[0]) for row in (states[1] != 3)}) > 1


def test_lengths_that_are_no_power_of_two_and_prompts_are_served():
    kernel = AbsorbingKernel(4, LinearSurvival())
    fixed = torch.zeros(11, dtype=torch.bool)
    fixed[[0, 4, 5]] = True
    tokens = torch.full((11,), 2)
    made = ConfidenceSampler(SpreadOrder()).sample(
        uniform_network, kernel, (50, 11), 3, draws(), prompt=(tokens, fixed)
    )
    assert (made.final[:, fixed] == 2).all()
    assert (made.final < 3).all()
    assert (made.stats.nfe == 3).all()


def chain(length, stay):
    """A Markov chain of two symbols that keeps its symbol with probability ``stay``."""
    law = torch.full((2,), 0.5, dtype=torch.float64)
    step = torch.tensor([[stay, 1 - stay], [1 - stay, stay]], dtype=torch.float64)
    for _ in range(length - 1):
        law = law.unsqueeze(-1) * step
    return EnumeratedLaw(law)


def test_on_a_markov_chain_it_loses_less_than_a_random_order():
    """Neighbours drawn in one step break the chain: the share of changes of symbol tells, 0.1 in the exact law."""
    truth, kernel = chain(8, 0.9), AbsorbingKernel(3, LinearSurvival())
    network = EnumeratedDenoiser(truth, kernel)
    changes = {}
    for name, sampler in (("spread", ConfidenceSampler(SpreadOrder())), ("random", ConfidenceSampler(RandomOrder()))):
        made = sampler.sample(network, kernel, (6000, 8), 4, draws(1)).final
        changes[name] = float((made.diff(dim=1) != 0).double().mean())
    exact = float((truth.sample(6000, draws(2)).diff(dim=1) != 0).double().mean())
    assert exact == pytest.approx(0.1, abs=0.01)
    assert changes["spread"] - exact < 0.6 * (changes["random"] - exact)
