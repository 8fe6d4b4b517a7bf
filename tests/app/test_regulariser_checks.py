"""A regulariser that does not suit is refused with the composition, by its key and with a cure."""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path

import pytest

from isocline.app import validate
from isocline.app.compose import compose
from isocline.app.regulariser_checks import findings

ROOT = Path(__file__).parents[2]
WHERE = "isocline.training.regularisation"
KINETIC = {"_target_": f"{WHERE}.kinetic_energy.KineticEnergy"}
JACOBIAN = {"_target_": f"{WHERE}.jacobian_frobenius.JacobianFrobenius"}
STATES = {"_target_": f"{WHERE}.state_smoothness.StateSmoothness"}
NEAR = {"_target_": f"{WHERE}.parameter_smoothness.ParameterSmoothness"}
TIED = {"_target_": f"{WHERE}.weight_tying.WeightTying"}
NORM = {"_target_": f"{WHERE}.spectral_norm.SpectralNorm"}
CAP = {"_target_": f"{WHERE}.lipschitz_cap.LipschitzCap"}
DROP = {"_target_": f"{WHERE}.stochastic_depth.StochasticDepth"}


@pytest.fixture(scope="module")
def defaults():
    return compose([], ROOT, validate=False).config


def chosen(config, side, name, **regularisers):
    result = copy.deepcopy(config)
    result[side][name]["regularisers"] = regularisers
    return result


@functools.cache
def by(network):
    """The default composition with a masked model whose depth is integrated otherwise."""
    return compose([f"network@models.masked.network={network}"], ROOT, validate=False).config


def test_all_that_suit_a_model_pass(defaults):
    for side, name, regularisers in (
        ("models", "flow", {"a": KINETIC, "b": JACOBIAN, "c": STATES, "d": NORM, "e": DROP}),
        ("models", "vp", {"a": KINETIC, "b": CAP}),
        ("models", "ar", {"a": NEAR, "b": JACOBIAN, "c": STATES, "d": NORM, "e": DROP}),
        ("models", "masked", {"a": TIED, "b": JACOBIAN, "c": STATES, "d": CAP, "e": DROP}),
        ("models", "resnet", {"a": NEAR, "b": JACOBIAN, "c": STATES, "d": CAP, "e": DROP}),
        ("models", "node_backprop", {"a": KINETIC, "b": JACOBIAN, "c": NORM}),
        ("models", "node_adjoint", {"a": NORM}),
        ("students", "reflow", {"a": KINETIC, "b": JACOBIAN, "c": CAP}),
        ("densities", "cnf_moons", {"a": CAP}),
    ):
        assert list(findings(chosen(defaults, side, name, **regularisers))) == [], name


@pytest.mark.parametrize(
    ("side", "name", "regularisers", "key", "message"),
    [
        ("models", "flow", {"tie": TIED}, "tie", "differ in shape"),
        ("models", "flow", {"norm": NORM, "near": NEAR}, "near", "no two consecutive residual layers"),
        ("models", "ar", {"speed": KINETIC}, "speed", "predicts no velocity; take state_smoothness"),
        ("models", "ar", {"near": NEAR, "tie": TIED}, "near", "remove it or the weight tying"),
        ("models", "ar", {"cap": CAP, "norm": NORM}, "cap", "remove it or the spectral normalisation"),
        ("models", "node_adjoint", {"speed": KINETIC}, "speed", "set network.gradient to backpropagation"),
        ("models", "node_adjoint", {"states": STATES}, "states", "ODEClassifier has no residual layers"),
        ("densities", "cnf_moons", {"speed": KINETIC}, "speed", "set objective.kinetic instead"),
        ("models", "flow", {"lr": CAP}, "lr", "choose another name"),
        ("models", "flow", {"speed": {}}, "speed", r"\+regulariser@models.flow.regularisers.speed="),
    ],
)
def test_what_does_not_suit_is_named_by_its_key(defaults, side, name, regularisers, key, message):
    config = chosen(defaults, side, name, **regularisers)
    first = next(validate.problems(config))
    assert first.key == f"{side}.{name}.regularisers.{key}"
    assert re.search(message, first.message)


@pytest.mark.parametrize(
    ("network", "regularisers", "key", "message"),
    [
        ("leapfrog", {"drop": DROP}, "drop", "network.integrator = Leapfrog carries a velocity"),
        ("continuous", {"states": STATES}, "states", "network.integrator = Continuous has no residual layers; remove"),
        ("continuous", {"a": NORM, "b": JACOBIAN}, "b", "set network.integrator.gradient to backpropagation"),
    ],
)
def test_what_a_step_of_the_depth_does_not_allow_is_refused_by_its_key(network, regularisers, key, message):
    config = by(network)
    assert list(findings(chosen(config, "models", "masked", c=CAP))) == []
    ((found, said),) = findings(chosen(config, "models", "masked", **regularisers))
    assert found == f"models.masked.regularisers.{key}"
    assert message in said


@pytest.mark.parametrize("network", ["rk4_learned", "predictor_corrector"])
def test_other_steps_of_the_depth_allow_all(network):
    config = by(network)
    for chosen_ones in ({"a": NEAR, "b": JACOBIAN, "c": STATES, "d": NORM, "e": DROP}, {"a": TIED, "b": CAP}):
        assert list(findings(chosen(config, "models", "masked", **chosen_ones))) == []


def test_averages_that_would_not_fit_are_refused(defaults):
    config = chosen(defaults, "models", "ar", tie=TIED)
    config["models"]["ar"]["ema"] = {"_target_": "isocline.networks.power_ema.PowerFunctionAverage", "_partial_": True}
    assert [key for key, _ in findings(config)] == ["models.ar.regularisers"]


def test_values_of_a_regulariser_are_checked_like_any_object(defaults):
    config = chosen(defaults, "models", "flow", speed={**KINETIC, "weigth": 1.0})
    first = next(validate.problems(config))
    assert first.key == "models.flow.regularisers.speed.weigth"
    assert "did you mean 'weight'" in first.message
