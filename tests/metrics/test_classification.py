"""Evaluation of classifiers: closed forms of the metrics, settings of the solver, gradient methods."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import binomtest
from torch.nn import functional as F

from isocline.metrics.classification import ClassifierSettings, Outcomes, classify, summary, sweep
from isocline.metrics.solver_gradients import compare_gradients, differentiate
from isocline.metrics.uncertainty import wilson_interval
from isocline.networks.classifier import ResidualClassifier
from isocline.networks.ode_classifier import ODEClassifier
from isocline.solvers import RK4, Bosh3, ConstantSteps, Euler, PIDController
from isocline.solvers.gradient import Backpropagation, BacksolveAdjoint, CheckpointedAdjoint, DiscreteAdjoint

SETTINGS = ClassifierSettings(batch_size=3, digits=(1, 3, 5), steps=(1, 4), tolerance=1e-4)
IMAGES = torch.randint(256, (4, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(4)


def network(stepper, controller, width=8):
    torch.manual_seed(0)
    return ODEClassifier(1, 16, 4, stepper, controller, Backpropagation(), width)


def outcomes(share_right, confidence, n=200):
    """Every answer has the same confidence; the first share of them is right."""
    rest = math.log((1 - confidence) / 3)
    log_probs = torch.full((n, 4), rest, dtype=torch.float64)
    log_probs[:, 0] = math.log(confidence)
    return Outcomes(log_probs, (torch.arange(n) >= share_right * n).long(), torch.arange(n))


def test_metrics_are_those_of_the_closed_form():
    found = summary(outcomes(0.6, 0.9))
    assert found["accuracy"]["mean"] == pytest.approx(0.6)
    assert found["accuracy"]["se"] == pytest.approx(math.sqrt(0.6 * 0.4 / 199))
    assert found["nats"].mean == pytest.approx(-0.6 * math.log(0.9) - 0.4 * math.log(0.1 / 3))
    assert found["calibration_error"] == pytest.approx(0.3, abs=1e-5)
    assert (found["nfe"].mean, found["nfe_max"]) == (99.5, 199)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (10, 10), (783, 800)])
def test_wilsons_interval_is_scipys(k, n):
    wanted = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(k, n) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_counts_that_are_no_proportion_are_refused():
    for k, n in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match=f"{k} successes in {n}"):
            wilson_interval(k, n)


def test_batches_change_no_answer():
    made = network(Bosh3(), PIDController(1e-3, 1e-3))
    alone, together = (classify(made, IMAGES, LABELS, size) for size in (1, 4))
    assert torch.allclose(alone.log_probs, together.log_probs, atol=1e-5)
    assert torch.equal(alone.nfe, together.nfe)


def test_tighter_tolerances_cost_more_and_converge():
    points = sweep(network(Bosh3(), PIDController(1e-2, 1e-2)), IMAGES, LABELS, SETTINGS)
    assert [point.setting for point in points] == [1, 3, 5]
    nfe = [float(point.outcomes.nfe.double().mean()) for point in points]
    assert nfe == sorted(set(nfe))
    last = points[-1].outcomes.log_probs
    errors = [(point.outcomes.log_probs - last).abs().max() for point in points[:-1]]
    assert errors[1] < errors[0] / 10


def test_a_fixed_number_of_steps_is_varied_and_a_residual_network_is_not():
    points = sweep(network(RK4(), ConstantSteps(2)), IMAGES, LABELS, SETTINGS)
    assert [(point.setting, int(point.outcomes.nfe[0])) for point in points] == [(1, 4), (4, 16)]
    points = sweep(ResidualClassifier(1, 16, 4, 8, blocks=3), IMAGES, LABELS, SETTINGS)
    assert [(point.setting, int(point.outcomes.nfe[0])) for point in points] == [(0, 3)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": 0}, "images"),
        ({"digits": (3, 1)}, "digits"),
        ({"gradients": {}}, "gradients"),
        ({"tolerance": 2}, "2"),
    ],
)
def test_settings_out_of_range_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(SETTINGS, **change)


def test_every_gradient_method_finds_the_gradient_of_backpropagation():
    found = compare_gradients(network(Bosh3(), PIDController(1e-3, 1e-3)), IMAGES / 255, LABELS, SETTINGS)
    assert list(found) == ["backpropagation", "discrete", "checkpointed", "backsolve", "interpolated"]
    for name in ("discrete", "checkpointed"):
        assert found[name].error < 1e-12
        assert found[name].error_tight < 1e-12
    for name in ("backsolve", "interpolated"):
        assert found[name].error_tight < 1e-3 < found[name].error < 0.1


def test_the_gradient_is_that_of_finite_differences():
    made = network(RK4(), ConstantSteps(5)).double()
    x = (IMAGES / 255).double()
    gradient = differentiate(made, x, LABELS).gradient
    weights = list(made.parameters())
    direction = [torch.randn_like(weight) for weight in weights]
    losses = []
    with torch.no_grad():
        for shift in (1e-5, -2e-5):
            for weight, d in zip(weights, direction, strict=True):
                weight += shift * d
            losses.append(F.cross_entropy(made(x).logits, LABELS))
    slope = torch.cat([d.flatten() for d in direction]) @ gradient
    assert float(losses[0] - losses[1]) / 2e-5 == pytest.approx(float(slope), rel=1e-5)


def test_memory_grows_with_the_steps_as_each_method_says():
    """Bytes kept for 36 steps beyond those for 9, by method; the state has 4 × 8 × 4 × 4 floats."""
    state, grown = IMAGES.shape[0] * 8 * 4 * 4 * 4, {}
    for method in (Backpropagation(), DiscreteAdjoint(), CheckpointedAdjoint(), BacksolveAdjoint()):
        kept = [
            differentiate(network(Euler(), ConstantSteps(n)).with_solver(gradient=method), IMAGES / 255, LABELS)
            for n in (9, 36)
        ]
        grown[type(method).__name__] = (kept[1].kept_bytes - kept[0].kept_bytes) / state
    assert grown["Backpropagation"] > 5 * 27
    assert 27 <= grown["DiscreteAdjoint"] < 2 * 27
    assert 0 < grown["CheckpointedAdjoint"] < 12
    assert abs(grown["BacksolveAdjoint"]) < 1


def test_evaluations_on_the_way_back_are_counted():
    made = network(Euler(), ConstantSteps(8))
    backward = [
        differentiate(made.with_solver(gradient=method), IMAGES / 255, LABELS).nfe_backward
        for method in (Backpropagation(), DiscreteAdjoint())
    ]
    assert backward == [0, 8]


def test_comparing_leaves_the_network_as_it_was():
    made = network(Bosh3(), ConstantSteps(2)).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    compare_gradients(made, IMAGES / 255, LABELS, SETTINGS)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert not any(weight.requires_grad for weight in made.parameters())
    assert isinstance(made.gradient, Backpropagation)


def test_a_residual_network_has_backpropagation_alone():
    found = compare_gradients(ResidualClassifier(1, 16, 4, 8, blocks=3), IMAGES / 255, LABELS, SETTINGS)
    assert list(found) == ["backpropagation"]
    assert found["backpropagation"].kept_bytes > 0
    assert "error_tight" not in found["backpropagation"].metrics()
    assert "seconds" not in found["backpropagation"].metrics()
