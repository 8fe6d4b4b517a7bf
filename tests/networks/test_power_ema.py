"""Power-function averages: the profile they have, any width made afterwards, what a resumed run remembers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.power_ema import (
    PowerFunctionAverage,
    exponent,
    relative_width,
    synthesise,
    with_average,
)

D = torch.float64


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def walk(average: nn.Module, steps: int, first: int = 1) -> nn.Module:
    """Weights that move by steps which depend on their number alone, and a buffer that counts."""
    follow = network()
    for step in range(1, steps + 1):
        draws = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for p in follow.parameters():
                p.add_(torch.randn(p.shape, generator=draws, dtype=D) / math.sqrt(step))
        follow[1].running_mean.fill_(step)
        if step >= first:
            average.update(follow)  # type: ignore[operator]
    return follow


class Recorder(nn.Module):
    """Keeps all weights that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def update(self, follow: nn.Module) -> None:
        self.weights.append(parameters(follow))


def parameters(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.1, 6.94), (12**-0.5, 0.0)])
def test_widths_and_exponents_belong_together(sigma_rel: float, gamma: float) -> None:
    assert exponent(sigma_rel) == pytest.approx(gamma, abs=0.005)
    assert relative_width(exponent(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-10)
    share = (torch.arange(100_000, dtype=D) + 0.5) / 100_000
    density = (exponent(sigma_rel) + 1) * share ** exponent(sigma_rel)
    mean = (share * density).mean()
    assert float(((share - mean) ** 2 * density).mean().sqrt()) == pytest.approx(sigma_rel, abs=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3, -1.0])
def test_a_width_that_no_profile_has_is_refused(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel"):
        exponent(sigma_rel)


def test_a_tracked_average_weighs_each_step_by_the_integral_of_its_profile() -> None:
    """Step k has the weight (k^{γ+1} − (k−1)^{γ+1})/t^{γ+1}; the initialisation has none."""

    class Impulse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.zeros(20, dtype=D))

    follow = Impulse()
    with torch.no_grad():
        follow.p.fill_(1e6)
    average = PowerFunctionAverage(follow, sigma_rel=0.1, tracked=(0.05, 0.1))
    for step in range(20):
        with torch.no_grad():
            follow.p.zero_()[step] = 1.0
        average.update(follow)
    k = torch.arange(21, dtype=D)
    for row, width in zip(average.averages, (0.05, 0.1), strict=True):
        wanted = ((k / 20) ** (exponent(width) + 1)).diff()
        torch.testing.assert_close(row, wanted)


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_a_tracked_width_is_reproduced_exactly(width: float) -> None:
    average = PowerFunctionAverage(network(), width, tracked=(0.05, 0.1))
    walk(average, 300)
    row = average.averages[(0.05, 0.1).index(width)]
    torch.testing.assert_close(parameters(average.network), row, rtol=0, atol=1e-8)


@pytest.mark.parametrize("width", [0.07, 0.12, 0.15])
def test_any_other_width_is_made_afterwards_to_its_projection_error(width: float) -> None:
    made = PowerFunctionAverage(network(), width, tracked=(0.05, 0.1), snapshots=16)
    direct = PowerFunctionAverage(network(), width, tracked=(width, 0.1))
    walk(made, 1000)
    walk(direct, 1000)
    kept = made.profiles()
    found = synthesise(kept.times, kept.gammas, 1000.0, exponent(width))
    assert found.error < 0.03
    assert float(found.coefficients.sum()) == pytest.approx(1.0, abs=1e-9)
    # A difference d of profiles changes Σ d_k θ_k by at most ‖d‖ ‖θ‖ over the steps, by the Cauchy–Schwarz inequality.
    path = Recorder()
    walk(path, 1000)
    norm = math.sqrt((exponent(width) + 1) ** 2 / (2 * exponent(width) + 1) / 1000)
    distance = (parameters(made.network) - direct.averages[0]).abs()
    assert (distance < found.error * norm * torch.stack(path.weights).norm(dim=0) + 1e-9).all()
    assert float(distance.max()) < 0.2 * float((made.averages[1] - direct.averages[0]).abs().max())


@pytest.mark.parametrize("width", [0.03, 0.07, 0.2, 0.28])
def test_weights_at_rest_stay_what_they_are_at_any_width(width: float) -> None:
    average = PowerFunctionAverage(network(), width, tracked=(0.05, 0.1))
    for _ in range(500):
        average.update(network())
    torch.testing.assert_close(parameters(average.network), parameters(network()), rtol=0, atol=1e-8)


def test_more_snapshots_bring_the_synthesis_closer() -> None:
    errors = []
    for room in (4, 16, 64):
        average = PowerFunctionAverage(network(), tracked=(0.05, 0.1), snapshots=room)
        walk(average, 250)
        kept = average.profiles()
        errors.append(synthesise(kept.times, kept.gammas, 250.0, exponent(0.2)).error)
    assert errors[0] > errors[1] > errors[2]


def test_the_average_of_an_earlier_step_can_be_made_and_of_a_later_one_cannot() -> None:
    average = PowerFunctionAverage(network(), tracked=(0.05, 0.1), snapshots=16)
    walk(average, 100)
    before = PowerFunctionAverage(network(), tracked=(0.05, 0.1))
    walk(before, 80)
    kept = average.profiles()
    found = synthesise(kept.times, kept.gammas, 80.0, exponent(0.1))
    assert 80 in kept.times.tolist()
    torch.testing.assert_close(parameters(with_average(network(), kept, found)), before.averages[1], rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match="step 100"):
        synthesise(kept.times, kept.gammas, 101.0, exponent(0.1))


def test_room_is_bounded_and_snapshots_stay_even_over_the_run() -> None:
    average = PowerFunctionAverage(network(), snapshots=8)
    walk(average, 100)
    assert average.kept_times[average.kept_times > 0].tolist() == [16, 32, 48, 64, 80, 96]
    assert average.profiles().times.tolist()[::2] == [16, 32, 48, 64, 80, 96, 100]


def test_a_resumed_run_ends_with_the_same_bits() -> None:
    whole, first, second = (PowerFunctionAverage(network(), 0.13, snapshots=4) for _ in range(3))
    walk(whole, 90)
    walk(first, 50)
    second.load_state_dict(first.state_dict())
    walk(second, 90, first=51)
    assert torch.equal(parameters(whole.network), parameters(second.network))


@pytest.mark.parametrize("kind", [PowerFunctionAverage, ExponentialMovingAverage])
def test_buffers_are_copied_not_averaged(kind: type) -> None:
    average = kind(network())
    walk(average, 30)
    assert average.network[1].running_mean.tolist() == [30.0] * 4
    assert average.network[1].num_batches_tracked.dtype == torch.int64


def test_what_a_model_keeps_makes_the_same_weights() -> None:
    average = PowerFunctionAverage(network(), 0.15)
    walk(average, 60)
    kept = average.kept()
    found = synthesise(kept["times"], kept["gammas"], 60.0, exponent(0.15))
    made = found.coefficients @ kept["weights"]
    torch.testing.assert_close(made, parameters(average.network))
    assert ExponentialMovingAverage(network()).kept() == {}


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"sigma_rel": 0.5}, {"tracked": (0.1,)}, {"snapshots": 3}, {"tracked": (0.1, 0.4)}):
        with pytest.raises(ValueError, match=r"sigma_rel|tracked|snapshots"):
            PowerFunctionAverage(network(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="update"):
        PowerFunctionAverage(network()).profiles()
