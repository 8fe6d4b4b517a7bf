"""Evaluation of classifiers: accuracy, calibration, evaluations, and accuracy against evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from isocline.datasets.quantisation import to_float
from isocline.metrics.uncertainty import Estimate, wilson_interval
from isocline.networks.classifier import AbstractClassifier
from isocline.networks.ode_classifier import ODEClassifier
from isocline.solvers.controller import ConstantSteps, PIDController
from isocline.solvers.explicit import Tsit5
from isocline.solvers.gradient import (
    AbstractGradient,
    Backpropagation,
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DiscreteAdjoint,
    InterpolatedAdjoint,
)
from isocline.solvers.stepper import AbstractStepper

__all__ = ["ClassifierSettings", "Outcomes", "Point", "classify", "summary", "sweep"]

_BINS = 15


def _gradients() -> dict[str, AbstractGradient]:
    return {
        "backpropagation": Backpropagation(),
        "discrete": DiscreteAdjoint(),
        "checkpointed": CheckpointedAdjoint(),
        "backsolve": BacksolveAdjoint(),
        "interpolated": InterpolatedAdjoint(),
    }


@dataclass(frozen=True)
class ClassifierSettings:
    """Evaluation of a classifier.

    Attributes:
        images: test images, the first of the split.
        batch_size: images classified at once.
        digits: tolerances ``10^-k`` at which a network with adaptive steps is measured.
        steps: numbers of steps at which a network with a fixed number of steps is measured.
        gradients: gradient methods to compare, by name; the first is the one that the others are held against.
        gradient_images: images in the batch that is differentiated.
        stepper: method of the comparison at a tight tolerance.
        tolerance: of that comparison, in float64.

    Raises:
        ValueError: if a value is out of range.
    """

    images: int = 10_000
    batch_size: int = 200
    digits: Sequence[int] = (1, 2, 3, 4)
    steps: Sequence[int] = (1, 2, 4, 8, 16, 32)
    gradients: Mapping[str, AbstractGradient] = field(default_factory=_gradients)
    gradient_images: int = 16
    stepper: AbstractStepper = field(default_factory=Tsit5)
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("images", "batch_size", "gradient_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation: {name} = {getattr(self, name)}; give a whole number of at least 1")
        for name in ("digits", "steps"):
            values = list(getattr(self, name))
            if not values or min(values) < 1 or values != sorted(set(values)):
                raise ValueError(f"evaluation: {name} = {values}; list whole numbers of at least 1, in rising order")
        if not self.gradients:
            raise ValueError("evaluation: gradients is empty; name at least one")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"evaluation: tolerance = {self.tolerance}; must be in (0, 1)")


class Outcomes(NamedTuple):
    """What a classifier said about N images.

    Attributes:
        log_probs: float64, shape (N, K).
        labels: the truth, int64, shape (N,).
        nfe: evaluations spent on each, int64, shape (N,).
    """

    log_probs: Tensor
    labels: Tensor
    nfe: Tensor

    @property
    def right(self) -> Tensor:
        """Whether the likeliest class is the true one, bool, shape (N,)."""
        return self.log_probs.argmax(1) == self.labels


class Point(NamedTuple):
    """A classifier under one setting of its solver.

    Attributes:
        setting: digits of the tolerance, or number of steps; 0 where there is nothing to set.
        outcomes: what it said.
    """

    setting: int
    outcomes: Outcomes


@torch.inference_mode()
def classify(
    network: AbstractClassifier, images: Tensor, labels: Tensor, batch_size: int, device: str | torch.device = "cpu"
) -> Outcomes:
    """Classify uint8 images (N, C, H, W) in batches, in the order given."""
    starts = range(0, len(images), batch_size)
    said = [network(to_float(images[first : first + batch_size].to(device))) for first in starts]
    log_probs = torch.cat([F.log_softmax(answer.logits.double(), 1).cpu() for answer in said])
    return Outcomes(log_probs, labels, torch.cat([answer.nfe.cpu() for answer in said]))


def variants(network: AbstractClassifier, settings: ClassifierSettings) -> dict[int, AbstractClassifier]:
    """The same weights under each setting of the solver; see `Point`."""
    if not isinstance(network, ODEClassifier):
        return {0: network}
    controller = network.controller
    if isinstance(controller, PIDController):
        tight = {k: dataclasses.replace(controller, rtol=10.0**-k, atol=10.0**-k) for k in settings.digits}
        return {k: network.with_solver(controller=control) for k, control in tight.items()}
    return {n: network.with_solver(controller=ConstantSteps(n)) for n in settings.steps}


def sweep(
    network: AbstractClassifier,
    images: Tensor,
    labels: Tensor,
    settings: ClassifierSettings,
    device: str | torch.device = "cpu",
) -> list[Point]:
    """Classify under every setting of the solver, from few evaluations to many."""
    return [
        Point(setting, classify(variant, images, labels, settings.batch_size, device))
        for setting, variant in variants(network, settings).items()
    ]


def summary(outcomes: Outcomes) -> dict[str, Any]:
    """Metrics by name: accuracy with Wilson's interval, cross-entropy in nats, calibration error, evaluations.

    The calibration error is the expected one over 15 bins: Guo, Pleiss, Sun, Weinberger, On calibration of modern
    neural networks (2017), section 2.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    right = outcomes.right.double()
    low, high = wilson_interval(int(right.sum()), len(right))
    classes = outcomes.log_probs.shape[1]
    calibration = multiclass_calibration_error(outcomes.log_probs.exp(), outcomes.labels, classes, n_bins=_BINS)
    return {
        "accuracy": {**Estimate.from_values(right.numpy()).as_dict(), "low": low, "high": high},
        "nats": Estimate.from_values(F.nll_loss(outcomes.log_probs, outcomes.labels, reduction="none").numpy()),
        "calibration_error": float(calibration),
        "nfe": Estimate.from_values(outcomes.nfe.double().numpy()),
        "nfe_max": int(outcomes.nfe.max()),
    }
