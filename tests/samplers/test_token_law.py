"""Temperature and truncation of a law of tokens."""

import pytest
import torch

from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.discrete import AncestralSampler, TauLeapingSampler
from isocline.samplers.token_law import GreedyTail, Sharpening

LAW = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def test_temperature_one_changes_nothing():
    torch.testing.assert_close(Sharpening()(LAW.log()), LAW)


@pytest.mark.parametrize("law", [Sharpening(), Sharpening(temperature=0.5), Sharpening(top_p=0.7), Sharpening(0.0)])
def test_probabilities_are_sharpened_like_their_logarithms(law):
    torch.testing.assert_close(law.of(LAW), law(LAW.log()))


def test_temperature_raises_to_its_inverse_power():
    torch.testing.assert_close(Sharpening(temperature=0.5)(LAW.log()), LAW**2 / (LAW**2).sum())


def test_the_nucleus_keeps_the_fewest_tokens_that_reach_its_mass():
    assert Sharpening(top_p=0.7)(LAW.log()).gt(0).tolist() == [True, True, False, False]
    assert Sharpening(top_p=0.85)(LAW.log()).gt(0).tolist() == [True, True, True, False]
    torch.testing.assert_close(Sharpening(top_p=0.7)(LAW.log())[0], LAW[0] / 0.8)


def test_min_p_is_relative_to_the_most_probable_token():
    assert Sharpening(min_p=0.3)(LAW.log()).gt(0).tolist() == [True, True, True, False]


def test_impossible_tokens_stay_impossible():
    probs = Sharpening(temperature=2.0)(torch.tensor([0.0, -torch.inf]))
    assert probs.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("min_p", 2.0),
    ],
)
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Sharpening(**{key: value})


def test_a_greedy_tail_is_certain_from_its_time_on():
    tail = GreedyTail(lambda t, z, cond: LAW.expand(2, 3, -1), until=0.25)
    times = torch.tensor([0.5, 0.25]).double()
    found = tail(times, torch.zeros(2, 3).long())
    torch.testing.assert_close(found[0], LAW.expand(3, -1))
    assert found[1].tolist() == [[1, 0, 0, 0]] * 3
    assert torch.equal(tail(times[0], torch.zeros(2, 3).long()), LAW.expand(2, 3, -1))


def test_the_last_of_even_steps_is_greedy_if_asked_for():
    network = lambda t, z, cond=None: LAW.log().expand(len(z), 40, -1)  # noqa: E731
    kernel, shape = AbsorbingKernel(4, LinearSurvival()), (200, 40)
    for build in (AncestralSampler, TauLeapingSampler):
        solution = build(greedy_tail=0.2).sample(
            network, kernel, shape, 5, torch.Generator().manual_seed(0), None, True
        )
        before, after = solution.ys[-2], solution.ys[-1]
        assert (after[before == 3] == 0).all()
        assert (before == 1).any()
    with pytest.raises(ValueError, match="greedy_tail = 2"):
        AncestralSampler(greedy_tail=2.0)
