import pytest
import torch

from isocline.datasets.quantisation import dequantise, to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_survives_the_round_trip():
    assert torch.equal(to_uint8(to_float(LEVELS)), LEVELS)


def test_levels_are_the_centres_of_equal_bins():
    assert to_float(LEVELS)[0].item() == -1 + 1 / 256
    assert to_float(LEVELS)[-1].item() == 1 - 1 / 256
    assert torch.allclose(to_float(LEVELS).diff(), torch.full((255,), 1 / 128))


def test_dequantised_levels_stay_in_their_bin():
    draws = dequantise(LEVELS.repeat(50), torch.Generator().manual_seed(0))
    assert torch.equal(to_uint8(draws), LEVELS.repeat(50))


def test_values_outside_the_range_go_to_the_ends():
    assert to_uint8(torch.tensor([-3.0, -1.0, 1.0, 3.0])).tolist() == [0, 0, 255, 255]


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(torch.tensor([float("nan")]))


def test_floats_are_not_levels():
    with pytest.raises(TypeError, match="uint8"):
        to_float(torch.zeros(3))
