"""Multi-start search and classification of fixed points."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.dynamics.anderson import Anderson
from isocline.dynamics.classify import Kind
from isocline.dynamics.distinct import group_points
from isocline.dynamics.fixed_points import find_fixed_points
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.system import Flow, IteratedMap
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import VESchedule

D = torch.float64


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_flow(matrix: list[list[float]]) -> Flow:
    a = torch.tensor(matrix, dtype=D)
    return Flow(lambda t, x, cond: x @ a.T, 0.0)


@pytest.mark.parametrize(
    ("matrix", "kind", "index"),
    [
        ([[-1, 0], [1, -2]], Kind.STABLE_NODE, 0),
        ([[-1, 3], [-3, -1]], Kind.STABLE_FOCUS, 0),
        ([[1, 0], [1, 2]], Kind.UNSTABLE_NODE, 2),
        ([[1, 3], [-3, 1]], Kind.UNSTABLE_FOCUS, 2),
        ([[1, 5], [0, -2]], Kind.SADDLE, 1),
        ([[0, 3], [-3, 0]], Kind.CENTRE, 0),
        ([[1, 3, 0], [-3, 1, 0], [0, 0, -1]], Kind.SADDLE_FOCUS, 2),
        ([[0, 3, 0], [-3, 0, 0], [0, 0, -1]], Kind.CENTRE, 0),
    ],
)
def test_linear_flows_are_what_the_textbook_calls_them(matrix, kind: Kind, index: int) -> None:
    start = torch.randn(4, len(matrix), generator=draw(), dtype=D)
    found = find_fixed_points(linear_flow(matrix), start, draw())
    assert found.kinds == (kind,)
    assert found.index.tolist() == [index]
    assert found.hits.tolist() == [4]
    expected = torch.linalg.eigvals(torch.tensor(matrix, dtype=D))
    assert sorted(found.spectrum.values[0].real.tolist()) == pytest.approx(sorted(expected.real.tolist()), abs=1e-9)


def test_a_zero_eigenvalue_is_marginal() -> None:
    degenerate = Flow(lambda t, x, cond: torch.stack([-(x[:, 0] ** 3), -x[:, 1]], 1), 0.0)
    found = find_fixed_points(degenerate, torch.zeros(1, 2, dtype=D), draw())
    assert found.kinds == (Kind.MARGINAL,)
    assert found.classification.undecided.tolist() == [1]


def test_the_pendulum_has_its_saddle_upright_and_its_focus_below() -> None:
    pendulum = Flow(lambda t, x, cond: torch.stack([x[:, 1], -x[:, 0].sin() - 0.2 * x[:, 1]], 1), 0.0)
    starts = torch.stack([torch.linspace(-1, 4, 20, dtype=D), torch.zeros(20, dtype=D)], 1)
    found = find_fixed_points(pendulum, starts, draw())
    by_kind = {kind: found.points[i] for i, kind in enumerate(found.kinds) if abs(found.points[i, 0]) < 4}
    torch.testing.assert_close(by_kind[Kind.STABLE_FOCUS], torch.zeros(2, dtype=D), rtol=0, atol=1e-8)
    torch.testing.assert_close(by_kind[Kind.SADDLE].abs(), torch.tensor([torch.pi, 0.0], dtype=D), rtol=0, atol=1e-8)
    assert int(found.hits.sum()) == int(found.roots.converged.sum())


def test_a_map_is_stable_inside_the_unit_circle() -> None:
    """The logistic map at r = 2.5 and r = 3.2: x* = 1 - 1/r with slope 2 - r; 0 with slope r."""
    for rate, kind in ((2.5, Kind.STABLE_NODE), (3.2, Kind.UNSTABLE_NODE)):
        logistic = IteratedMap(lambda t, x, cond, r=rate: r * x * (1 - x), 0.0)
        found = find_fixed_points(logistic, torch.tensor([[0.1], [0.6], [0.8], [-0.2]], dtype=D), draw())
        place = int((found.points[:, 0] - (1 - 1 / rate)).abs().argmin())
        assert float(found.points[place, 0]) == pytest.approx(1 - 1 / rate)
        assert found.spectrum.values[place, 0].real == pytest.approx(2 - rate)
        assert found.kinds[place] == kind


def test_failed_starts_are_counted_and_belong_to_no_point() -> None:
    """x² - 1 for cond = 1 has zeros, x² + 1 for cond = -1 has none."""
    system = Flow(lambda t, x, cond: x**2 - cond[:, None], 0.0, torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=D))
    found = find_fixed_points(system, torch.tensor([[0.5], [2.0], [2.0], [-3.0]], dtype=D), draw())
    assert found.members[1] == -1
    assert found.hits.tolist() == [2, 1]
    assert found.members.tolist() == [0, -1, 0, 1]
    torch.testing.assert_close(found.points[:, 0], torch.tensor([1.0, -1.0], dtype=D))
    assert found.kinds == (Kind.UNSTABLE_NODE, Kind.STABLE_NODE)
    none = find_fixed_points(system.at_rows(torch.tensor([1])), torch.tensor([[2.0]], dtype=D), draw())
    assert len(none.points) == 0
    assert none.kinds == ()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_what_is_one_point_does_not_depend_on_the_unit(seed: int, scale: float) -> None:
    """Each coordinate has its zeros at -1, 0, 1 times the unit: up to nine points in the plane."""
    system = Flow(lambda t, x, cond: x - x**3 / scale**2, 0.0)
    starts = torch.randn(12, 2, generator=draw(seed), dtype=D) * scale
    found = find_fixed_points(system, starts, draw(), finder=NewtonKrylov(tolerance=1e-10 * scale))
    cells = (found.points / scale).round()
    torch.testing.assert_close(found.points / scale, cells, rtol=0, atol=1e-8)
    assert len(cells.unique(dim=0)) == len(cells)
    torch.testing.assert_close(found.index, (cells == 0).sum(1))


def mixture_denoiser(sigma: float, weights: list[float], means: list[list[float]], variance: float) -> IteratedMap:
    means_ = torch.tensor(means)
    mixture = GaussianMixture(torch.tensor(weights), means_, torch.full_like(means_, variance))
    process = GaussianProcess(VESchedule(sigma, 2 * sigma), DataPrediction())
    return IteratedMap(Denoiser(mixture.network(process), process).data, 0.0)


@pytest.mark.parametrize("finder", [NewtonKrylov(), Anderson()])
def test_attractors_of_a_mixtures_denoiser_sit_at_its_modes_when_the_noise_is_small(finder) -> None:
    means = [[-2.0, 0.0], [2.0, 0.5], [0.0, 3.0]]
    system = mixture_denoiser(0.3, [0.5, 0.3, 0.2], means, 0.01)
    starts = 2 * torch.randn(40, 2, generator=draw(), dtype=D)
    found = find_fixed_points(system, starts, draw(), finder=finder)
    attractors = found.points[found.attracting]
    distance = torch.cdist(torch.tensor(means, dtype=D), attractors)
    assert len(attractors) == 3
    assert float(distance.amin(1).max()) < 1e-6
    # At a mode the others weigh nothing: D' = v / (v + σ²) there.
    leading = found.classification.leading[found.attracting]
    torch.testing.assert_close(leading, torch.full_like(leading, 0.01 / 0.1 - 1), rtol=0, atol=1e-4)


def test_a_large_noise_leaves_one_fixed_point_at_the_mean() -> None:
    """With D = E[x_0 | x] nearly constant the only fixed point is near the mean of the data."""
    system = mixture_denoiser(30.0, [0.5, 0.3, 0.2], [[-2.0, 0.0], [2.0, 0.5], [0.0, 3.0]], 0.01)
    found = find_fixed_points(system, torch.randn(20, 2, generator=draw(), dtype=D), draw())
    mean = torch.tensor([-0.4, 0.75], dtype=D)
    assert found.kinds == (Kind.STABLE_NODE,)
    assert float((found.points - mean).abs().max()) < 0.02


def test_a_large_state_is_classified_by_the_rim_of_its_spectrum() -> None:
    """n = 200: Arnoldi's 48 values cannot be all; the growing mode is one of them."""
    rates = torch.linspace(-1, -0.5, 200, dtype=D)
    rates[17] = 0.3
    system = Flow(lambda t, x, cond: rates * x - x**3, 0.0)
    found = find_fixed_points(system, 1e-3 * torch.randn(2, 200, generator=draw(), dtype=D), draw())
    assert found.kinds[0] == Kind.SADDLE
    assert found.index[0] == 1
    assert found.spectrum.values.shape == (1, 48)
    assert found.classification.leading[0] == pytest.approx(0.3, abs=1e-6)


def test_the_same_seed_gives_the_same_bits() -> None:
    system = mixture_denoiser(0.8, [0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.05)
    starts = torch.randn(8, 2, generator=draw(), dtype=D)
    first, second = (find_fixed_points(system, starts, draw(3)) for _ in range(2))
    assert torch.equal(first.points, second.points)
    assert torch.equal(first.spectrum.values, second.spectrum.values)


def test_groups_take_the_best_point_and_what_is_near() -> None:
    points = torch.tensor([[0.0], [0.05], [1.0], [0.1], [0.15]], dtype=D)
    groups = group_points(points, torch.tensor([3.0, 1.0, 2.0, 4.0, 5.0]), 0.06)
    assert groups.representatives.tolist() == [1, 2, 4]
    assert groups.members.tolist() == [0, 0, 1, 0, 2]


def test_a_separation_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="separation"):
        find_fixed_points(linear_flow([[-1.0]]), torch.ones(1, 1, dtype=D), draw(), separation=0.0)
