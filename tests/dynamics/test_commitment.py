"""Commitment of tokens on constructed trajectories and on those of samplers."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from isocline.dynamics.commitment import average_ranks, rank_correlation, token_commitment
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.samplers.discrete import AncestralSampler

MASK = 9


def absorbing(order: list[int], text: list[int]) -> torch.Tensor:
    """States that unmask one position at a time, in a given order; ``(L + 1, 1, L)``."""
    states = [torch.full((len(text),), MASK)]
    for position in order:
        following = states[-1].clone()
        following[position] = text[position]
        states.append(following)
    return torch.stack(states)[:, None]


def test_an_absorbing_trajectory_commits_each_token_when_it_is_unmasked() -> None:
    states = absorbing([2, 0, 1], [4, 5, 6])
    found = token_commitment(torch.tensor([1.0, 0.75, 0.5, 0.0]), states)
    assert found.times.tolist() == [[0.5, 0.0, 0.75]]
    assert found.share[:, 0].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_sequences_with_clocks_of_their_own_are_read_by_them() -> None:
    states = absorbing([0, 1], [4, 5]).expand(3, 2, 2)
    clocks = torch.tensor([[1.0, 1.0], [0.5, 0.9], [0.0, 0.3]])
    found = token_commitment(clocks, states)
    torch.testing.assert_close(
        found.times, torch.tensor([[0.5, 0.0], [0.9, 0.3]], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_a_token_that_is_taken_back_is_not_committed_before_it_returns() -> None:
    states = torch.tensor([[[1, 1]], [[2, 1]], [[1, 1]], [[2, 1]]])
    assert token_commitment(torch.tensor([3.0, 2.0, 1.0, 0.0]), states).times.tolist() == [[0.0, 3.0]]


@pytest.mark.parametrize("reversed_time", [False, True])
def test_order_by_place_is_one_from_left_to_right_and_minus_one_from_right_to_left(reversed_time: bool) -> None:
    ts = torch.linspace(0, 1, 6) if reversed_time else torch.linspace(1, 0, 6)
    text = [1, 2, 3, 4, 5]
    assert token_commitment(ts, absorbing([0, 1, 2, 3, 4], text)).left_to_right.item() == pytest.approx(1.0)
    assert token_commitment(ts, absorbing([4, 3, 2, 1, 0], text)).left_to_right.item() == pytest.approx(-1.0)


def test_order_by_a_value_of_the_tokens_is_that_in_which_they_came() -> None:
    found = token_commitment(torch.linspace(1, 0, 5), absorbing([3, 1, 0, 2], [1, 2, 3, 4]))
    assert found.earliness_by(torch.tensor([[2, 3, 1, 4]])).item() == pytest.approx(1.0)
    assert found.earliness_by(torch.tensor([[1, 1, 1, 1]])).item() == 0.0


def test_rank_correlation_is_spearmans_with_ties() -> None:
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randint(6, (4, 30), generator=stream), torch.randint(6, (4, 30), generator=stream)
    expected = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(expected)
    assert average_ranks(torch.tensor([3, 1, 3])).tolist() == [1.5, 0.0, 1.5]


class Even(torch.nn.Module):
    """Logits that know nothing."""

    vocab_size = MASK + 1

    def forward(self, t, z, cond=None):
        return torch.zeros(*z.shape, self.vocab_size)


def test_the_saved_states_of_samplers_are_read_as_they_are() -> None:
    """Left to right commits left to right; ancestral sampling in an order of chance, evenly over its steps."""
    stream = torch.Generator().manual_seed(1)
    left = AutoregressiveSampler().sample(Even(), None, (5, 16), None, stream, save_steps=True)
    assert token_commitment(left.ts, left.ys).left_to_right.tolist() == pytest.approx([1.0] * 5)
    kernel = AbsorbingKernel(MASK + 1, LinearSurvival())
    chance = AncestralSampler().sample(Even(), kernel, (64, 32), 16, stream, save_steps=True)
    found = token_commitment(chance.ts, chance.ys)
    assert abs(float(found.left_to_right.mean())) < 0.1
    torch.testing.assert_close(found.share.mean(-1), 1 - found.ts[:, 0], atol=0.05, rtol=0)


def test_a_trajectory_is_needed() -> None:
    with pytest.raises(ValueError, match="save_steps"):
        token_commitment(torch.zeros(1), torch.zeros(1, 2, 3))
