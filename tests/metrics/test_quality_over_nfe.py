"""Equal quality on an exact field: the order of a method decides, adaptive steps are counted image by image."""

from __future__ import annotations

import pytest
import torch
from tests.metrics.exact_images import LINEAR, Flat, Pixels

from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.quality_over_nfe import Quality, QualitySettings, quality_over_nfe
from isocline.processes.denoiser import Denoiser
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import RK4, Bosh3, Dopri5, Euler, Heun


def settings(**changes) -> QualitySettings:
    reference = ContinuousSampler(RK4(), UniformTimeGrid(), LinearPathVariable())
    given = {
        "fixed": {"euler": Euler(), "heun": Heun()},
        "adaptive": {"bosh3": Bosh3(), "dopri5": Dopri5()},
        "grid": UniformTimeGrid(),
        "reference": reference,
        "reference_nfe": 256,
        "nfe": (1, 4, 8, 16, 32, 64),
        "tolerances": (0.1, 1e-3),
        "samples": 40,
        "groups": 5,
        "error": 0.02,
    }
    return QualitySettings(**{**given, **changes})


@pytest.fixture(scope="module")
def found() -> Quality:
    real = (torch.rand(2, 60, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    return quality_over_nfe(Denoiser(Flat(), LINEAR), ImageReference(Pixels(), real[0], real[1]), settings(), 0)


def test_a_budget_that_does_not_pay_for_a_step_is_left_out(found: Quality) -> None:
    assert list(found.points["euler"]) == ["1", "4", "8", "16", "32", "64"]
    assert list(found.points["heun"]) == ["4", "8", "16", "32", "64"]


def test_a_higher_order_reaches_the_same_error_in_fewer_evaluations(found: Quality) -> None:
    euler, heun = found.for_error("euler"), found.for_error("heun")
    assert euler is not None
    assert heun is not None
    assert heun.nfe < euler.nfe < 64
    at = {nfe: point.rmse.estimate.mean for nfe, point in found.points["euler"].items()}
    below = [int(nfe) for nfe, value in at.items() if value <= 0.02]
    assert max(n for n in (1, 4, 8, 16, 32, 64) if n < min(below)) < euler.nfe <= min(below)


def test_adaptive_solvers_are_counted_image_by_image_and_a_tighter_tolerance_costs_more(found: Quality) -> None:
    loose, tight = found.points["dopri5"].values()
    assert loose.nfe.mean < tight.nfe.mean
    assert loose.rmse.estimate.mean > tight.rmse.estimate.mean
    assert tight.nfe.sd is not None
    assert tight.nfe.sd > 0


def test_equal_quality_is_relative_to_the_models_own_converged_distance(found: Quality) -> None:
    need = found.for_quality("euler")
    assert need is not None
    bar = 1.05 * found.reference.estimate.mean
    curve = {int(nfe): point.frechet.estimate.mean for nfe, point in found.points["euler"].items()}
    assert all(value <= bar for nfe, value in curve.items() if nfe >= need.nfe)
    assert any(value > bar for nfe, value in curve.items() if nfe < need.nfe) or need.at_most


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"nfe": (8, 4)}, "nfe"),
        ({"tolerances": (0.01, 0.1)}, "tolerances"),
        ({"groups": 1}, "groups"),
        ({"within": 0.0}, "within"),
        ({"fixed": {}, "adaptive": {}}, "name a solver"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, key) -> None:
    with pytest.raises(ValueError, match=key):
        settings(**change)
