"""Temperature and truncation of a law of tokens."""

import pytest
import torch

from isocline.samplers.token_law import Sharpening

LAW = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def test_temperature_one_changes_nothing():
    torch.testing.assert_close(Sharpening()(LAW.log()), LAW)


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


@pytest.mark.parametrize(("key", "value"), [("temperature", -1.0), ("top_p", 0.0), ("min_p", 2.0)])
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Sharpening(**{key: value})
