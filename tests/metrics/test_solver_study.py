"""The study on an exact field: equal samplers score equally, better ones end nearer, refusals are passed over."""

from __future__ import annotations

import pytest
import torch
from tests.metrics.exact_images import LINEAR, Flat, Pixels

from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.solver_study import SolverStudySettings, study_solvers
from isocline.processes.denoiser import Denoiser
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import GivenGrid, UniformTimeGrid
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import RK4, Euler, Heun

PATH = LinearPathVariable()


def sampler(stepper=None, grid=None) -> ContinuousSampler:
    return ContinuousSampler(stepper or Euler(), grid or UniformTimeGrid(), PATH)


@pytest.fixture(scope="module")
def study():
    real = (torch.rand(2, 60, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    settings = SolverStudySettings(
        {"euler": sampler(), "same": sampler(), "heun": sampler(Heun())},
        sampler(RK4()), nfe=(4, 8), reference_nfe=128, samples=40, batch_size=16, groups=5,
    )  # fmt: skip
    given = {"given": sampler(grid=GivenGrid({4: [1.0, 0.75, 0.5, 0.25]}))}
    said: list[str] = []
    found = study_solvers(
        Denoiser(Flat(), LINEAR), ImageReference(Pixels(), real[0], real[1]), settings, given, 0, progress=said.append
    )
    return found, said


def test_samplers_share_their_noise(study) -> None:
    points = study[0].points
    assert points["euler"][4].frechet == points["same"][4].frechet == points["given"][4].frechet
    assert points["euler"][8].spent == points["heun"][8].spent == 8


def test_more_steps_and_higher_order_end_nearer_to_the_flow(study) -> None:
    points = study[0].points
    assert points["euler"][8].rmse.mean < points["euler"][4].rmse.mean
    assert points["heun"][8].rmse.mean < points["euler"][8].rmse.mean


def test_a_budget_that_a_sampler_was_not_made_for_is_said_and_left_out(study) -> None:
    assert list(study[0].points["given"]) == [4]
    assert any(line.startswith("given not at 8: n=8 steps") for line in study[1])


def test_the_excess_is_that_of_the_distances_and_paired(study) -> None:
    found = study[0]
    excess = found.excess("heun", 8)
    ratio = found.points["heun"][8].frechet.estimate.mean / found.reference.estimate.mean
    assert excess["mean"] == pytest.approx(ratio - 1)
    assert excess["low"] < excess["mean"] < excess["high"]
    least = min(points[4].frechet.estimate.mean for name, points in found.points.items() if name != "heun")
    assert found.points[found.best(4, ["euler", "given"])][4].frechet.estimate.mean == least


@pytest.mark.parametrize("change", [{"on_optimised": {"dpm": "dpm"}}, {"groups": 1}, {"nfe": []}])
def test_settings_that_cannot_be_are_refused(change) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.solvers"):
        SolverStudySettings({"euler": sampler()}, sampler(), **change)
