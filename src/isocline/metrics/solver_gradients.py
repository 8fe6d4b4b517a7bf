"""Gradient methods of a neural ODE side by side: error, evaluations, memory and time on one batch."""

from __future__ import annotations

import copy
import dataclasses
import gc
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.metrics.classification import ClassifierSettings
from isocline.metrics.tensor_memory import TensorMemory
from isocline.networks.classifier import AbstractClassifier
from isocline.networks.ode_classifier import ODEClassifier
from isocline.solvers.controller import PIDController
from isocline.solvers.gradient import AdjointWarning

__all__ = ["GradientReport", "compare_gradients", "differentiate"]

_REPEATS = 3


@dataclass(frozen=True)
class Differentiated:
    """One forward and backward pass.

    Attributes:
        gradient: of the mean cross-entropy by all weights, one float64 vector.
        nfe_forward: mean evaluations per sample that the solver counted.
        nfe_backward: calls of the field per sample on the way back; each is a forward pass and, mostly, a product with
            its Jacobian.
        kept_bytes: bytes of tensors that the forward pass leaves behind for the backward pass.
        most_bytes: bytes of tensors alive at the same time at most.
        warned: whether the method said that its gradient is not to be trusted.
    """

    gradient: Tensor
    nfe_forward: float
    nfe_backward: float
    kept_bytes: int
    most_bytes: int
    warned: bool


@dataclass(frozen=True)
class GradientReport:
    """A gradient method on the trained weights.

    Attributes:
        error: relative error ``‖g − g₀‖ / ‖g₀‖`` under the solver that the network was trained with, g₀ being the first
            method's under the same solver, in float64.
        error_tight: likewise at the tight tolerance; None for a network with a fixed number of steps.
        nfe_forward: see `Differentiated`; under the solver of training, in float32, as are the following.
        nfe_backward: likewise.
        kept_bytes: likewise.
        most_bytes: likewise.
        warned: likewise.
        seconds: median wall-clock time of a forward and backward pass; in no output of a stage.
    """

    error: float
    error_tight: float | None
    nfe_forward: float
    nfe_backward: float
    kept_bytes: int
    most_bytes: int
    warned: bool
    seconds: float

    def metrics(self) -> dict[str, Any]:
        """All but the time, by name."""
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if name != "seconds" and value is not None}


def differentiate(network: AbstractClassifier, x: Tensor, labels: Tensor) -> Differentiated:
    """Differentiate the mean cross-entropy of a batch by the weights, and count.

    Args:
        network: its ``gradient`` is the method.
        x: float images, shape (B, C, H, W).
        labels: int64, shape (B,).
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    rows = [0]
    field = network.field if isinstance(network, ODEClassifier) else nn.Identity()

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows[0] += len(inputs[1])

    gc.collect()
    handle = field.register_forward_pre_hook(count)
    try:
        with warnings.catch_warnings(record=True) as caught, TensorMemory() as memory:
            warnings.simplefilter("always")
            answer = network(x)
            nfe = float(answer.nfe.double().mean())
            loss = F.cross_entropy(answer.logits, labels)
            del answer
            kept, rows[0] = memory.alive, 0
            found = torch.autograd.grad(loss, weights)
            most = memory.most
    finally:
        handle.remove()
    warned = any(issubclass(warning.category, AdjointWarning) for warning in caught)
    gradient = torch.cat([part.detach().double().flatten() for part in found])
    return Differentiated(gradient, nfe, rows[0] / len(x), kept, most, warned)


def compare_gradients(
    network: AbstractClassifier, x: Tensor, labels: Tensor, settings: ClassifierSettings
) -> dict[str, GradientReport]:
    """Compare every method of ``settings.gradients`` on one batch; a network without a solver has the first one only.

    Args:
        network: the trained network; not changed.
        x: float32 images, shape (B, C, H, W).
        labels: int64, shape (B,).
        settings: the methods and the tight tolerance.
    """
    single = copy.deepcopy(network).requires_grad_(True)
    double = copy.deepcopy(single).double()
    tight = _tight(double, settings)
    found: dict[str, GradientReport] = {}
    exact: list[Tensor] = []
    for name, method in settings.gradients.items():
        if isinstance(network, ODEClassifier):
            single, double = (_with(n, gradient=method) for n in (single, double))
            tight = None if tight is None else _with(tight, gradient=method)
        elif found:
            break
        gradients = [differentiate(n, x.double(), labels).gradient for n in (double, tight) if n is not None]
        exact = exact or gradients
        errors = [float((g - best).norm() / best.norm()) for g, best in zip(gradients, exact, strict=True)]
        # Timed first, so that tables which the solvers make once and keep are not counted.
        seconds = _seconds(single, x, labels)
        counted = differentiate(single, x, labels)
        found[name] = GradientReport(
            error=errors[0],
            error_tight=errors[1] if len(errors) > 1 else None,
            nfe_forward=counted.nfe_forward,
            nfe_backward=counted.nfe_backward,
            kept_bytes=counted.kept_bytes,
            most_bytes=counted.most_bytes,
            warned=counted.warned,
            seconds=seconds,
        )
    return found


def _with(network: AbstractClassifier, **solver: Any) -> AbstractClassifier:
    assert isinstance(network, ODEClassifier)
    return network.with_solver(**solver)


def _tight(network: AbstractClassifier, settings: ClassifierSettings) -> AbstractClassifier | None:
    if not isinstance(network, ODEClassifier) or not isinstance(network.controller, PIDController):
        return None
    controller = PIDController(rtol=settings.tolerance, atol=settings.tolerance)
    return network.with_solver(settings.stepper, controller)


def _seconds(network: AbstractClassifier, x: Tensor, labels: Tensor) -> float:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    spent = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdjointWarning)
        for _ in range(_REPEATS):
            began = time.perf_counter()
            torch.autograd.grad(F.cross_entropy(network(x).logits, labels), weights)
            spent.append(time.perf_counter() - began)
    return statistics.median(spent)
