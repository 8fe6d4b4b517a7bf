"""A Brownian path on a grid: one path whatever asks, its law inside intervals too, one pair of numbers a step."""

import pytest
import torch

from isocline.solvers import ConstantSteps, EulerMaruyama, SDEProblem, solve
from isocline.solvers.brownian_grid import BrownianGrid

F64 = torch.float64
GRID = BrownianGrid(3, (0.0, 0.3, 0.5, 1.1, 2.0), depth=6)


def time(value):
    return torch.tensor(value, dtype=F64)


def test_a_step_over_an_interval_is_the_difference_of_the_path_in_either_direction():
    y = torch.zeros(4, 2, dtype=F64)
    for early, late in zip(GRID.times, GRID.times[1:], strict=False):
        for t0, t1 in ((early, late), (late, early)):
            found, _ = GRID.step(time(t0), time(t1), y, None, area=True)
            # Times of one sample each are asked in the general way.
            wanted, _ = GRID.step(time(t0).expand(4), time(t1).expand(4), y, None, area=True)
            torch.testing.assert_close(found.w, wanted.w, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(found.h, wanted.h, rtol=1e-11, atol=1e-12)


def test_the_path_and_its_integral_have_the_covariances_of_brownian_motion():
    y = torch.zeros(40_000, 1, dtype=F64)
    times = (0.1, 0.3, 0.4, 0.87, 1.1, 1.9)
    points = [GRID.at(time(t), y) for t in times]
    for i, a in enumerate(times):
        for j, b in enumerate(times[i:], i):
            assert float((points[i].w * points[j].w).mean()) == pytest.approx(a, abs=0.03)
            assert float((points[i].area * points[j].w).mean()) == pytest.approx(a * a / 2, abs=0.04)
            assert float((points[i].area * points[j].area).mean()) == pytest.approx(a**2 * (b / 2 - a / 6), abs=0.08)


def test_the_path_is_continuous_across_the_times_of_the_grid():
    y = torch.zeros(2000, 1, dtype=F64)
    for t in GRID.times[1:-1]:
        before, at, after = (GRID.at(time(t + shift), y) for shift in (-1e-6, 0.0, 1e-6))
        for other in (before, after):
            assert float((other.w - at.w).square().mean().sqrt()) == pytest.approx(1e-3, rel=0.1)
            torch.testing.assert_close(other.area, at.area, rtol=0, atol=1e-5)


def test_a_sample_has_its_path_in_any_batch_and_at_times_of_its_own():
    y = torch.zeros(5, 3, dtype=F64)
    times = torch.tensor([0.2, 0.3, 0.9, 1.5, 2.0], dtype=F64)
    together = GRID.at(times, y)
    for row in range(5):
        alone = GRID.at_rows(torch.tensor([row])).at(times[row], y[:1])
        assert torch.equal(alone.w[0], together.w[row])
        assert torch.equal(alone.area[0], together.area[row])


def test_fine_and_coarse_grids_of_steps_see_one_path():
    # dy = dw: the end is the path's, whatever the steps.
    noise, y0 = BrownianGrid.uniform(5, 0.0, 1.0, 10), torch.zeros(6, 2, dtype=F64)
    problem = SDEProblem(lambda t, y, c: 0 * y, lambda t, y, c: torch.ones_like(y), y0, 0.0, 1.0, noise=noise)
    ends = [solve(problem, EulerMaruyama(), ConstantSteps(count)).final for count in (1, 5, 10, 40)]
    for end in ends:
        torch.testing.assert_close(end, noise.at(time(1.0), y0).w, rtol=0, atol=1e-12)


def test_grids_that_make_no_sense_are_refused():
    for times in ((0.0,), (0.0, 0.0), (1.0, 0.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="times="):
            BrownianGrid(0, times)
    with pytest.raises(ValueError, match="depth=-1"):
        BrownianGrid(0, (0.0, 1.0), depth=-1)
    with pytest.raises(TypeError, match="complex"):
        GRID.at(time(1.0), torch.zeros(1, 1, dtype=torch.complex128))
    assert GRID.at(time(2.5), torch.zeros(1, 1)).w.isnan().all()
