"""Optimised grids: the programme is exact, and on a mixture the sampler ends closer to the flow than on usual grids."""

from __future__ import annotations

import itertools

import pytest
import torch

from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import NoisePrediction, VelocityPrediction
from isocline.processes.schedule import LinearSchedule, VPLinearSchedule
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.exponential import ExponentialSampler
from isocline.samplers.grid import GivenGrid, PowerGrid, UniformLogRatioGrid, UniformTimeGrid
from isocline.samplers.optimised_grid import (
    GridSearch,
    distance,
    local_errors,
    optimise_grid,
    refine_grid,
    shortest_path,
)
from isocline.samplers.singlestep import dpm_solver
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import RK4, Euler
from isocline.solvers.multistep import AdamsBashforth

D = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
VP = GaussianProcess(VPLinearSchedule(), NoisePrediction())
LINEAR = GaussianProcess(LinearSchedule(), VelocityPrediction())
PATH = LinearPathVariable()


def noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=D)


def truth(denoiser: Denoiser, x1: torch.Tensor) -> torch.Tensor:
    return ContinuousSampler(RK4(), UniformTimeGrid(), PATH).sample(denoiser, x1, 800).final


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_the_programme_finds_what_trying_all_paths_finds(steps: int) -> None:
    costs = torch.rand(7, 7, generator=torch.Generator().manual_seed(steps), dtype=D)
    costs[torch.ones(7, 7).tril().bool()] = torch.inf
    paths = [(0, *inner, 6) for inner in itertools.combinations(range(1, 6), steps - 1)]
    best = min(paths, key=lambda path: sum(float(costs[i, j]) for i, j in itertools.pairwise(path)))
    assert shortest_path(costs, [steps])[steps] == list(best)


def test_more_steps_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="3 points allow 1 to 2 steps"):
        shortest_path(torch.zeros(3, 3), [3])


def test_local_errors_are_those_of_euler_steps_along_the_trajectory() -> None:
    denoiser, x1 = Denoiser(MIXTURE.network(LINEAR), LINEAR), noise(8, 0)
    positions = torch.tensor([1.0, 0.8, 0.5, 0.3, 0.0], dtype=D)
    errors = local_errors(denoiser, positions, x1)
    y, states = x1, [x1]
    field = PATH.field(denoiser)
    for start, end in itertools.pairwise(positions):
        first = field(start, y, None)
        last = field(end, y + (end - start) * first, None)
        y = y + (end - start) * (first + last) / 2
        states.append(y)
    step = states[1] + (positions[3] - positions[1]) * field(positions[1], states[1], None)
    assert errors[1, 3] == pytest.approx(float((states[3] - step).square().mean().sqrt()), rel=1e-6)
    assert bool(errors.tril().isinf()[torch.ones(5, 5).tril().bool()].all())


@pytest.mark.parametrize("process", [VP, LINEAR], ids=["vp", "linear"])
@pytest.mark.parametrize(
    ("sampler", "budgets"),
    [
        (ContinuousSampler(Euler(), UniformTimeGrid(), PATH), {4: 4, 8: 8}),
        (ContinuousSampler(AdamsBashforth(2, Euler()), UniformTimeGrid(), PATH), {4: 4, 8: 8}),
        (ExponentialSampler(dpm_solver(2), UniformTimeGrid()), {7: 4, 15: 8}),
    ],
    ids=["ddim", "adams_bashforth", "dpm_solver_2"],
)
def test_the_grid_is_better_than_uniform_and_power_grids_for_new_noise(process, sampler, budgets) -> None:
    denoiser = Denoiser(MIXTURE.network(process), process)
    x1, held_out = noise(128, 1), noise(512, 2)
    ends = truth(denoiser, held_out)
    for nfe, grid in optimise_grid(denoiser, sampler, x1, truth(denoiser, x1), list(budgets)).items():
        assert grid.error <= min(grid.errors.values())
        assert len(grid.times) == budgets[nfe]

        def error(given, nfe: int = nfe) -> float:
            return float(distance(sampler.on(given).sample(denoiser, held_out, nfe).final, ends))

        usual = [error(other) for other in (UniformTimeGrid(), UniformLogRatioGrid(), PowerGrid())]
        assert error(GivenGrid({len(grid.times): grid.times})) < 0.95 * min(usual)


def test_refining_finds_the_grid_that_made_the_target() -> None:
    denoiser, x1 = Denoiser(MIXTURE.network(LINEAR), LINEAR), noise(64, 3)
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), PATH)

    def ends(positions: torch.Tensor) -> torch.Tensor:
        return sampler.on(GivenGrid({3: positions[:3].tolist()})).sample(denoiser, x1, 3).final

    wanted = torch.tensor([1.0, 0.7, 0.25, 0.0], dtype=D)
    found = refine_grid(ends, ends(wanted), UniformTimeGrid()(LINEAR, PATH, 3), 30)
    assert found == pytest.approx(wanted, abs=1e-4)


def test_a_search_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="points=3"):
        GridSearch(points=3)
