"""Stochastic interpolants: the path, and couplings of two data sets."""

from __future__ import annotations

import pytest
import torch

from isocline.processes.coupling import DataCoupling, IndependentCoupling, MinibatchOTCoupling
from isocline.processes.stochastic_interpolant import StochasticInterpolant

D = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_velocity_is_the_time_derivative_of_the_path() -> None:
    interpolant = StochasticInterpolant(0.7)
    x0, x1, z = (torch.randn(5, 2, generator=draws(), dtype=D) + i for i in range(3))
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.95], dtype=D)
    step = 1e-6
    before, after = (interpolant.sample(x0, x1, z, t + sign * step).x for sign in (-1, 1))
    torch.testing.assert_close((after - before) / (2 * step), interpolant.sample(x0, x1, z, t).velocity)


def test_the_path_begins_and_ends_at_the_data_and_is_widest_halfway() -> None:
    interpolant = StochasticInterpolant(0.5)
    x0, x1, z = torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1)
    ends = [float(interpolant.sample(x0, x1, z, torch.tensor(t)).x) for t in (0.0, 0.5, 1.0)]
    assert ends == pytest.approx([0.0, 0.5 + 0.25, 1.0])


def test_without_noise_it_is_the_straight_path() -> None:
    interpolant = StochasticInterpolant(0.0)
    x0, x1, z = (torch.randn(4, 2, generator=draws(i), dtype=D) for i in range(3))
    point = interpolant.sample(x0, x1, z, torch.full((4,), 0.3, dtype=D))
    torch.testing.assert_close(point.velocity, x1 - x0)
    torch.testing.assert_close(point.x, 0.7 * x0 + 0.3 * x1)


def test_a_second_data_set_is_drawn_from_and_may_be_permuted_to_the_first() -> None:
    data = torch.arange(10.0)[:, None]
    x0 = torch.tensor([[9.0], [0.0], [5.0]])
    plain = DataCoupling(data)(x0, None, draws(1))
    assert plain[0] is x0
    assert set(plain[1].flatten().tolist()) <= set(data.flatten().tolist())
    nearest = MinibatchOTCoupling(DataCoupling(data))(x0, None, draws(1))[1]
    assert sorted(nearest.flatten().tolist()) == sorted(plain[1].flatten().tolist())
    assert nearest.flatten().argsort().tolist() == x0.flatten().argsort().tolist()
    noise = torch.randn(3, 1, generator=draws(4))
    own = (
        MinibatchOTCoupling()(x0, None, draws(4))[1],
        MinibatchOTCoupling(IndependentCoupling())(x0, None, draws(4))[1],
    )
    assert torch.equal(*own)
    assert sorted(own[0].flatten().tolist()) == sorted(noise.flatten().tolist())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StochasticInterpolant(-1.0), "noise=-1.0"),
        (lambda: StochasticInterpolant(t_min=0.5), "t_min=0.5"),
        (lambda: DataCoupling(torch.zeros(0, 2)), "data is empty"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
