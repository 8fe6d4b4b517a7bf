"""Sharpness, the edge of stability, and the distance of optimisers from their equations of motion."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from isocline.dynamics.edge_of_stability import trace_sharpness
from isocline.dynamics.flow_distance import FlowDistanceSettings, flow_distances
from isocline.dynamics.optimisation_study import Edge, OptimisationStudySettings, study_optimisation
from isocline.dynamics.sharpness import sharpness
from isocline.dynamics.small_regression import Regression, RegressionSettings
from isocline.optimization.adaptive import AdaptiveGradientFlow
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall
from isocline.optimization.pid_learning_rate import PIDLearningRate

SMALL = RegressionSettings(width=8, degree=2, points=10)


def test_sharpness_of_a_quadratic_is_its_largest_eigenvalue() -> None:
    draws = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 12, generator=draws, dtype=torch.float64)
    matrix = matrix @ matrix.T
    theta = nn.Parameter(torch.zeros(12, dtype=torch.float64))
    found = sharpness(lambda: 0.5 * theta @ matrix @ theta, [theta], 12, draws)
    assert found.top == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-9)
    assert found.residual < 1e-8


def test_sharpness_of_the_regression_is_that_of_its_dense_hessian() -> None:
    regression = Regression(SMALL, 0)
    start = regression.vector()

    def slope(y: torch.Tensor) -> torch.Tensor:
        return regression.flow()(torch.zeros(()), y[None], None)[0]

    h, eye = 1e-5, torch.eye(len(start), dtype=torch.float64)
    hessian = -torch.stack([(slope(start + h * e) - slope(start - h * e)) / (2 * h) for e in eye])
    wanted = torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]
    found = sharpness(regression.loss, regression.parameters, 20, torch.Generator().manual_seed(1))
    assert found.top == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.slow
def test_gradient_descent_sharpens_until_it_is_at_the_edge_of_stability() -> None:
    regression = Regression(RegressionSettings(width=32, degree=3), 0)
    found = trace_sharpness(regression, partial(GradientFlow, lr=0.1), 2.0, steps=1500, every=50)
    assert found.reached is not None
    assert max(found.ratios[:2]) < 0.9  # stable in the beginning, then progressive sharpening
    assert found.steps[found.reached] > 200
    after = found.ratios[found.reached :]
    assert len(after) > 10
    assert min(after) > 0.8
    assert max(after) < 1.2
    assert found.hovering() == pytest.approx(1.0, abs=0.05)
    assert found.losses[-1] < 0.2 * found.losses[found.reached // 2]
    rises = sum(b > a for a, b in zip(found.losses[found.reached :], found.losses[found.reached + 1 :], strict=False))
    assert rises > 0  # the loss falls over the whole, not at every step


@pytest.mark.slow
def test_momentum_has_an_edge_of_its_own_and_a_smaller_step_stays_below_it() -> None:
    settings = RegressionSettings(width=32, degree=4)
    ball = partial(HeavyBall, lr=0.1, momentum=0.9)
    found = trace_sharpness(Regression(settings, 0), ball, 2 * 1.9, steps=1000, every=50)
    assert max(found.ratios) == pytest.approx(1.0, abs=0.05)
    # Far above what gradient descent could bear at this step size.
    assert max(found.sharpness) > 1.7 * 2 / 0.1
    slow = trace_sharpness(Regression(settings, 0), partial(GradientFlow, lr=0.01), 2.0, steps=200, every=50)
    assert slow.reached is None
    assert slow.hovering() is None


@pytest.mark.parametrize(
    "make",
    [partial(AdaptiveGradientFlow), partial(PIDLearningRate, optimizer=partial(torch.optim.SGD, lr=1.0), first=1e-2)],
)
def test_step_sizes_under_control_settle_at_the_edge(make: partial) -> None:
    found = trace_sharpness(Regression(RegressionSettings(), 0), make, 2.0, steps=400, every=40)
    assert sum(found.ratios[-5:]) / 5 == pytest.approx(1.0, abs=0.1)


def test_a_run_that_diverges_names_the_cure() -> None:
    with pytest.raises(ValueError, match="give the optimiser a smaller lr"):
        trace_sharpness(Regression(RegressionSettings(), 0), partial(GradientFlow, lr=3.0), 2.0, steps=400, every=20)


def test_optimisers_approach_their_equations_at_the_order_of_their_methods() -> None:
    regression = Regression(SMALL, 0)
    start = regression.vector()
    found = flow_distances(FlowDistanceSettings(steps=(80, 160), span=1.0, ball_span=1.0, tolerance=1e-12), regression)
    wanted = {"gradient_flow": 1, "heun": 2, "runge_kutta": 4, "heavy_ball": 1, "leapfrog": 2}
    assert found.orders == pytest.approx(wanted, abs=0.25)
    assert torch.equal(regression.vector(), start)


def test_the_study_finds_the_best_step_of_each_optimiser_and_leaves_out_those_that_diverge() -> None:
    settings = OptimisationStudySettings(
        {"gradient_flow": GradientFlow, "heavy_ball": HeavyBall},
        edges={"gradient_flow": Edge(GradientFlow, [0.05])},
        regions={"gradient_flow": GradientFlow},
        learning_rates=[0.01, 0.1, 1e3],
        evaluations=40,
        seeds=2,
        points=4,
        edge_steps=20,
        edge_every=10,
        distance=FlowDistanceSettings(steps=(10, 20), span=0.5, ball_span=0.5),
        regression=SMALL,
    )
    found = study_optimisation(settings, 0)
    assert found.evaluations == (0, 10, 20, 30, 40)
    assert {best.lr for best in found.best.values()} <= {0.01, 0.1}
    curve = found.best["gradient_flow"].curve
    assert list(curve) == sorted(curve, reverse=True)
    assert found.best["gradient_flow"].loss.n == 2
    assert found.edges["gradient_flow_0.05"].limits == pytest.approx((40.0, 40.0, 40.0))
    assert found.limits["gradient_flow"] == pytest.approx(2)
    assert all(math.isfinite(value) and value > 0 for value in found.eigenvalues)
    with pytest.raises(ValueError, match="diverges from some start at every step size"):
        study_optimisation(
            OptimisationStudySettings({"gradient_flow": GradientFlow}, learning_rates=[1e3], evaluations=40), 0
        )
